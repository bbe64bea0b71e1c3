"""What the console's page shows of people, invites and recordings, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import User
from tests.consoles.test_share_a_console import enter
from vms.consoles import people, recorder, sharing
from vms.models import VM, ConsoleInvite, ConsoleRecording

pytestmark = pytest.mark.django_db
Browser = Callable[[User], Client]
AS_FRAGMENT = {"HX-Request": "true"}


def console(client: Client, vm: VM, part: str = "") -> str:
    answer = client.get(f"/machines/{vm.uuid}/console/" + (f"?part={part}" if part else ""))
    assert answer.status_code == 200
    return answer.content.decode()


def act(client: Client, vm: VM, word: str, **data: Any) -> Any:
    return client.post(f"/machines/{vm.uuid}/console/control/{word}/", data, headers=AS_FRAGMENT)


def test_who_is_here_and_who_has_control(
    browser: Browser, owner: User, teammate: User, viewer: User, vm: VM
) -> None:
    enter(teammate, vm)
    enter(viewer, vm)
    shown = console(browser(owner), vm, "people_list")
    assert "2 people here; teammate has control" in shown
    assert "Take control" in shown  # the owner may take it back
    assert "Record the screen" in shown
    page = console(browser(viewer), vm)
    assert "teammate has control" in page
    for word in ("Take control", "Ask for control", "Invite…", "Record the screen"):
        assert word not in page, word


def test_ask_hand_over_take_back_put_down(
    browser: Browser, owner: User, teammate: User, vm: VM
) -> None:
    enter(owner, vm)
    enter(teammate, vm)
    assert "Ask for control" in console(browser(teammate), vm, "people")
    answer = act(browser(teammate), vm, "ask")
    assert answer["X-Changed"] == f"console:{vm.uuid}"
    assert 'data-asking="teammate: asks for control"' in console(browser(owner), vm, "people")
    assert "Ask no longer" in console(browser(teammate), vm, "people_list")
    assert act(browser(owner), vm, "give", to=teammate.pk).status_code == 204
    assert sharing.state(vm, owner).holder_id == teammate.pk
    assert act(browser(owner), vm, "take").status_code == 204
    assert act(browser(teammate), vm, "take").status_code == 409
    assert act(browser(owner), vm, "release").status_code == 204
    assert sharing.state(vm, owner).holder_id is None


def test_control_is_given_to_nobody_who_is_not_here_and_never_by_a_get(
    browser: Browser, owner: User, teammate: User, outsider: User, vm: VM
) -> None:
    enter(owner, vm)
    for to in (teammate.pk, outsider.pk, "0", "x", ""):
        assert act(browser(owner), vm, "give", to=to).status_code == 404
    assert act(browser(owner), vm, "explode").status_code == 404
    assert act(browser(outsider), vm, "take").status_code == 404
    address = f"/machines/{vm.uuid}/console/control/take/"
    assert browser(owner).get(address).status_code == 405


def test_an_invite_opens_the_console_and_nothing_else(
    browser: Browser, owner: User, outsider: User, vm: VM
) -> None:
    client = browser(owner)
    assert "Make a link" in console(client, vm, "invite")
    data = {"mode": "view", "hours": "4", "once": "1"}
    dialog = client.post(f"/machines/{vm.uuid}/console/invites/", data).content.decode()
    found = re.search(r'id="invite-link">http://[^/]+(/console/join/[^<]+)<', dialog)
    assert found
    assert found[1] not in console(client, vm, "invite")  # told once
    guest = browser(outsider)
    asked = guest.get(found[1])
    assert "owner invites you to look" in asked.content.decode()
    assert not ConsoleInvite.objects.get().uses.exists()  # a look uses nothing up
    assert guest.post(found[1]).headers["Location"] == f"/machines/{vm.uuid}/console/"
    page = console(guest, vm)
    assert f'href="/machines/{vm.uuid}/"' not in page
    assert "power-button" not in page
    assert "Recordings" not in page
    assert guest.get(f"/machines/{vm.uuid}/").status_code == 404
    assert guest.get(f"/machines/{vm.uuid}/console/?part=recordings").status_code == 404
    row = ConsoleInvite.objects.get()
    revoked = client.post(f"/machines/{vm.uuid}/console/invites/{row.pk}/revoke/")
    assert "Links that are valid" not in revoked.content.decode()
    assert guest.get(f"/machines/{vm.uuid}/console/").status_code == 404
    assert guest.get(found[1]).status_code == 404


@pytest.mark.parametrize("hours", ["0", "-1", "x", "99999", "¹", ""])
def test_an_invite_of_no_length_is_refused(
    browser: Browser, owner: User, vm: VM, hours: str
) -> None:
    data = {"mode": "view", "hours": hours}
    assert browser(owner).post(f"/machines/{vm.uuid}/console/invites/", data).status_code == 422


def test_only_stewards_invite(browser: Browser, teammate: User, vm: VM) -> None:
    client = browser(teammate)
    assert client.get(f"/machines/{vm.uuid}/console/?part=invite").status_code == 403
    data = {"mode": "view", "hours": "4"}
    assert client.post(f"/machines/{vm.uuid}/console/invites/", data).status_code == 403


def test_a_recording_is_shown_to_all_listed_played_and_deleted(
    browser: Browser,
    owner: User,
    viewer: User,
    outsider: User,
    vm: VM,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    tmp_path: Path,
) -> None:
    settings.RECORDINGS_DIR = tmp_path
    monkeypatch.setattr(recorder, "begin", lambda pk: None)
    client = browser(owner)
    address = f"/machines/{vm.uuid}/console/record/"
    assert client.post(address, {"kind": "serial"}, headers=AS_FRAGMENT).status_code == 204
    assert "being recorded" in console(browser(viewer), vm, "people")
    row = ConsoleRecording.objects.get()
    assert "Stop recording the serial line" in console(client, vm, "people_list")
    assert client.post(f"/recordings/{row.pk}/stop/", headers=AS_FRAGMENT).status_code == 204
    ConsoleRecording.objects.filter(pk=row.pk).update(ended_at=timezone.now(), duration_ms=900)
    assert f"/recordings/{row.pk}/" in console(browser(viewer), vm, "recordings")
    assert "Delete the recording" not in console(browser(viewer), vm, "recordings")
    player = browser(viewer).get(f"/recordings/{row.pk}/").content.decode()
    assert f"/api/v1/recordings/{row.pk}/data" in player
    assert browser(outsider).get(f"/recordings/{row.pk}/").status_code == 404
    assert browser(viewer).post(f"/recordings/{row.pk}/delete/").status_code == 403
    assert client.get(f"/recordings/{row.pk}/delete/").status_code == 405
    assert client.post(f"/recordings/{row.pk}/delete/", headers=AS_FRAGMENT).status_code == 204
    assert not ConsoleRecording.objects.exists()


@pytest.mark.parametrize(
    ("name", "short"),
    [("mia", "MI"), ("Mia Moll", "MM"), ("Anna von Berg", "AB"), ("王小明", "明"), ("", "?")],
)
def test_initials(name: str, short: str) -> None:
    assert people.initials(name) == short
