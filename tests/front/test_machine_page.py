"""A machine's page: what it says and offers, by state and by person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django.test import Client
from django.utils import timezone

from accounts.models import User
from hosts.models import Host
from jobs.models import Job
from vms.models import VM, Nic

AS_FRAGMENT = {"HX-Request": "true"}


def page_of(client: Client, vm: VM, query: str = "") -> str:
    answer = client.get(f"/machines/{vm.uuid}/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_people_of_the_team_see_it_and_others_do_not(
    browser: Callable[[User], Client], vm: VM, owner: User, viewer: User, outsider: User
) -> None:
    assert "Shut down" in page_of(browser(owner), vm)
    assert "may not" in page_of(browser(viewer), vm, "?part=menu") or "role" in page_of(
        browser(viewer), vm, "?part=menu"
    )
    assert browser(outsider).get(f"/machines/{vm.uuid}/").status_code == 404


def test_the_ssh_line_is_there_to_copy(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    VM.objects.filter(pk=vm.pk).update(first_user="debian")
    Nic.objects.filter(vm=vm).update(addresses=["192.168.122.14"])
    assert 'data-copy="ssh debian@192.168.122.14"' in page_of(browser(owner), vm)


def test_verbs_that_make_no_sense_say_why(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    menu = page_of(browser(owner), vm, "?part=menu")
    assert menu.count('aria-disabled="true"') >= 2  # start and resume of a running machine
    assert 'class="why"' in menu


def test_a_verb_is_asked_for_and_tells(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    answer = browser(owner).post(f"/machines/{vm.uuid}/shutdown/", headers=AS_FRAGMENT)
    assert answer.status_code == 204
    assert f"vm:{vm.uuid}" in answer["X-Changed"]
    assert Job.objects.get().kind == "vm.shutdown"
    again = browser(owner).post(f"/machines/{vm.uuid}/start/", headers=AS_FRAGMENT)
    assert again.status_code == 409
    assert b"data-error-text" in again.content


def test_a_verb_is_never_a_get_and_never_another_word(
    browser: Callable[[User], Client], vm: VM, owner: User, outsider: User
) -> None:
    client = browser(owner)
    assert client.get(f"/machines/{vm.uuid}/start/").status_code == 405
    assert client.post(f"/machines/{vm.uuid}/explode/").status_code == 404
    assert client.post(f"/machines/{vm.uuid}/force_off/").status_code == 404
    assert browser(outsider).post(f"/machines/{vm.uuid}/shutdown/").status_code == 404
    assert not Job.objects.exists()


def test_deleting_a_running_machine_asks_for_its_name(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    client = browser(owner)
    dialog = page_of(client, vm, "?part=confirm&verb=delete")
    assert f"kvmweb-{vm.uuid}-vda.qcow2" in dialog
    assert f'data-must-equal="{vm.name}"' in dialog
    refused = client.post(
        f"/machines/{vm.uuid}/delete/", {"confirm_name": "other"}, headers=AS_FRAGMENT
    )
    assert refused.status_code == 409
    done = client.post(
        f"/machines/{vm.uuid}/delete/",
        {"confirm_name": vm.name, "from": "page"},
        headers=AS_FRAGMENT,
    )
    assert done["X-Location"] == "/machines/"


def test_a_guest_that_ignores_the_shutdown_can_be_forced_off(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    long_ago = timezone.now() - timedelta(seconds=90)
    Job.objects.create(
        kind="vm.shutdown",
        vm=vm,
        actor=owner,
        target_name=vm.name,
        state="running",
        observing=True,
        started_at=long_ago,
    )
    page = page_of(browser(owner), vm)
    assert "has not reacted to the shutdown" in page
    assert "part=confirm&amp;verb=force_off" in page


def test_an_unreachable_host_is_named_with_its_time(
    browser: Callable[[User], Client], vm: VM, owner: User, host: Host
) -> None:
    Host.objects.filter(pk=host.pk).update(
        reach="down", reach_since=timezone.now() - timedelta(minutes=14)
    )
    page = page_of(browser(owner), vm)
    assert "unreachable" in page
    assert "Nothing is lost" in page


def test_a_failed_first_boot_shows_its_excerpt_as_text(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    VM.objects.filter(pk=vm.pk).update(
        first_boot="failed", first_boot_excerpt="<script>alert(1)</script> failed"
    )
    page = page_of(browser(owner), vm)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_its_name_and_tags_can_be_changed(
    browser: Callable[[User], Client], vm: VM, owner: User, viewer: User
) -> None:
    client = browser(owner)
    data = {"name": "web-9", "description": "front", "tags": "prod, web"}
    assert client.post(f"/machines/{vm.uuid}/edit/", data, headers=AS_FRAGMENT).status_code == 204
    vm.refresh_from_db()
    assert (vm.name, [tag.name for tag in vm.tags.all()]) == ("web-9", ["prod", "web"])
    wrong = client.post(
        f"/machines/{vm.uuid}/edit/", data | {"name": "No Spaces"}, headers=AS_FRAGMENT
    )
    assert wrong.status_code == 422
    assert b"Some of the input" not in wrong.content
    refused = browser(viewer).post(f"/machines/{vm.uuid}/edit/", data, headers=AS_FRAGMENT)
    assert refused.status_code == 403


def test_a_failed_create_says_why_what_was_cleaned_and_offers_another_try(
    browser: Callable[[User], Client], vm: VM, owner: User, outsider: User
) -> None:
    Job.objects.create(
        kind="vm.create",
        vm=vm,
        actor=owner,
        target_name=vm.name,
        state="failed",
        error_code="vm.no_such_code",
        error_ref="ab12cd34",
        params={"copy": "linked", "cloud_init": True, "start": True},
    )
    VM.objects.filter(pk=vm.pk).update(deleted_at=timezone.now())
    client = browser(owner)
    page = client.get(f"/machines/{vm.uuid}/?part=machine").content.decode()
    assert "could not be made" in page
    assert "no disk, no domain and no quota is left" in page
    assert "ab12cd34" in page
    assert f'action="/machines/{vm.uuid}/retry/"' in page
    assert client.get(f"/machines/{vm.uuid}/").status_code == 404
    stranger = browser(outsider).get(f"/machines/{vm.uuid}/?part=machine")
    assert stranger.status_code == 404
    assert vm.name not in stranger.content.decode()


def test_a_deleted_machine_says_so_in_an_open_page(
    browser: Callable[[User], Client], vm: VM, owner: User
) -> None:
    VM.objects.filter(pk=vm.pk).update(deleted_at=timezone.now())
    page = browser(owner).get(f"/machines/{vm.uuid}/?part=machine").content.decode()
    assert "This machine was deleted" in page
