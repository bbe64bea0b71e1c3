"""What is said to people, logs and name servers that should not be said."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import services as people
from accounts.models import AuditEntry, IdempotentAnswer, Membership, Team, User
from jobs import live
from jobs.models import Job
from vms.images import addresses
from vms.models import VM, Image

PASSWORD = "tr0ub4dor-and-3"


@pytest.mark.django_db
def test_no_nudge_about_a_machine_that_was_taken_away(
    vm: VM,
    teammate: User,
    team: Team,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    told: set[str] = set()
    monkeypatch.setattr(live, "_send", lambda group, _message: told.add(group))
    job = Job.objects.create(kind="vm.reboot", vm=vm, actor=teammate, team=team)
    Membership.objects.filter(user=teammate).delete()
    with django_capture_on_commit_callbacks(execute=True):
        live.publish_job(job)
    assert told == {
        live.ADMINS,
        live.user_group(vm.owner_id),
        live.team_group(team.pk),
        live.machine_group(vm.uuid),  # those it is shared with: not the teammate
    }


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/machines/", "/metrics", "/nothing"])
def test_a_path_writes_one_line_of_log(
    path: str, owner: User, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    with caplog.at_level(logging.INFO):
        client.post(f"/machines/new/%0aERROR root: all is lost{path}")
        client.post("/profile/name/%0aERROR root: all is lost")
        client.post("/profile/name/", headers={"Referer": "http://x\nERROR root: all is lost"})
    assert all("\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.192",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "2001:0:53aa:64c:0:0:f5ff:fffe",  # Teredo, of a client at 10.0.0.1
        "2001:db8::1",
    ],
)
def test_no_image_comes_from_inside(address: str) -> None:
    assert not addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_images_come_from_outside(address: str) -> None:
    assert addresses.is_public(ipaddress.ip_address(address))


def _every_value() -> str:
    """All of the database, as text."""
    from django.db import connection

    said = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            said += [f"{table}: {row!r}" for row in cursor.fetchall()]
    return "\n".join(said)


@pytest.mark.django_db
def test_a_first_password_is_written_nowhere(
    owner: User,
    image: Image,
    network: Any,
    api: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = {"name": "web-1", "image": image.pk, "vcpus": 1, "memory_mib": 1024}
    body |= {"user": "me", "password": PASSWORD}
    with caplog.at_level(logging.DEBUG):
        answer = api(owner).request("POST", "/vms", body, key="once")
    assert answer.status_code == 202
    vm = VM.objects.get()
    assert vm.password_hash.startswith("$6$")
    everything = _every_value()
    assert PASSWORD not in everything
    assert PASSWORD not in caplog.text
    assert PASSWORD not in answer.content.decode()
    # Its hash is with the machine alone, until the seed has been used.
    lines = [line for line in everything.splitlines() if vm.password_hash in line]
    assert [line.split(":")[0] for line in lines] == ["vms_vm"]
    assert vm.password_hash not in answer.content.decode()


@pytest.mark.django_db
def test_a_generated_password_is_written_nowhere(
    owner: User, image: Image, network: Any, browser: Callable[[User], Client]
) -> None:
    client = browser(owner)
    data = {
        "name": "web-1",
        "image": image.pk,
        "flavor": "custom",
        "vcpus": 1,
        "memory_mib": 1024,
        "network": "default",
        "copy": "linked",
        "user": "me",
        "password_mode": "generate",
    }
    answer = client.post("/machines/new/", data)
    assert answer.status_code == 302, answer.content
    page = client.get(answer["Location"])
    shown = page.context["secret"]
    assert len(shown) > 20
    assert shown not in _every_value()
    assert shown not in str(client.session.items())
    assert not client.get(answer["Location"]).context["secret"], "it is shown once"


@pytest.mark.django_db
def test_tokens_and_passwords_of_people_are_not_kept_with_answers(
    admin: User, api: Callable[..., Any]
) -> None:
    speaker = api(admin)
    token = speaker.request("POST", "/me/tokens", {"name": "ci", "scopes": ["read"]}, key="a")
    user = speaker.request("POST", "/users", {"username": "new", "email": "n@x.test"}, key="b")
    assert token.status_code == user.status_code == 201
    everything = _every_value()
    assert token.json()["token"] not in everything
    assert user.json()["password"] not in everything
    assert not IdempotentAnswer.objects.exists()


@pytest.mark.django_db
def test_an_idempotency_key_is_ones_own(
    owner: User, outsider: User, image: Image, network: Any, api: Callable[..., Any]
) -> None:
    body = {"name": "web-1", "image": image.pk, "vcpus": 1, "memory_mib": 1024, "user": "me"}
    first = api(owner).post("/vms", body, key="same").json()
    second = api(outsider).post("/vms", body, key="same").json()
    assert first["vm"]["uuid"] != second["vm"]["uuid"]
    assert second["vm"]["owner"] == "outsider"


@pytest.mark.django_db
def test_the_record_holds_no_secret(admin: User) -> None:
    people.create_user(admin, "new", "", PASSWORD)
    assert PASSWORD not in str(list(AuditEntry.objects.values()))
