"""A ticket opens one console, once, soon, for whom it was made; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client
from django.utils import timezone

from accounts import services, tokens
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, TooMany
from accounts.models import Membership, Team, User
from jobs import origins
from vms.consoles import tickets
from vms.models import VM, ConsoleTicket

pytestmark = pytest.mark.django_db


def test_a_ticket_is_redeemed_once(owner: User, running_vm: VM) -> None:
    issued = tickets.issue(user=owner, vm=running_vm)
    grant = tickets.redeem(issued.secret, kind="vnc")
    assert (grant.user, grant.vm, grant.mode) == (owner, running_vm, "control")
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_only_its_hash_is_stored(owner: User, running_vm: VM) -> None:
    issued = tickets.issue(user=owner, vm=running_vm)
    row = ConsoleTicket.objects.get()
    assert issued.secret not in str(row.__dict__)
    assert issued.protocols == ["binary", f"ticket.{issued.secret}"]


def test_a_late_ticket_is_refused(owner: User, running_vm: VM) -> None:
    issued = tickets.issue(user=owner, vm=running_vm)
    ConsoleTicket.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_a_guess_is_refused(owner: User, running_vm: VM) -> None:
    tickets.issue(user=owner, vm=running_vm)
    for guess in ("", "x", "0" * 43):
        with pytest.raises(Forbidden):
            tickets.redeem(guess, kind="vnc")


def test_a_ticket_of_another_kind_is_refused(owner: User, running_vm: VM) -> None:
    issued = tickets.issue(user=owner, vm=running_vm)
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="serial")
    with pytest.raises(Invalid):
        tickets.issue(user=owner, vm=running_vm, kind="rdp")


@pytest.mark.parametrize("mode", ["", "view", "control"])
def test_an_outsider_gets_none(outsider: User, running_vm: VM, mode: str) -> None:
    with pytest.raises(NotFound):
        tickets.issue(user=outsider, vm=running_vm, mode=mode)


def test_a_viewer_may_only_view(viewer: User, running_vm: VM) -> None:
    assert tickets.issue(user=viewer, vm=running_vm).mode == "view"
    with pytest.raises(Forbidden):
        tickets.issue(user=viewer, vm=running_vm, mode="control")


def test_a_stopped_machine_has_no_screen(owner: User, running_vm: VM) -> None:
    VM.objects.update(observed=VM.Observed.SHUTOFF)
    running_vm.refresh_from_db()
    with pytest.raises(Conflict, match=r"console\.not_running"):
        tickets.issue(user=owner, vm=running_vm)


def test_access_taken_away_between_issue_and_use(
    teammate: User, team: Team, running_vm: VM
) -> None:
    issued = tickets.issue(user=teammate, vm=running_vm)
    Membership.objects.filter(team=team, user=teammate).delete()
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_a_deactivated_person_cannot_use_it(admin: User, teammate: User, running_vm: VM) -> None:
    issued = tickets.issue(user=teammate, vm=running_vm)
    services.set_active(actor=admin, user=teammate, active=False)
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_sign_out_spends_the_tickets_of_that_session(
    owner: User, running_vm: VM, browser: Callable[[User], Client]
) -> None:
    client = browser(owner)
    key = client.session.session_key
    assert key
    issued = tickets.issue(user=owner, vm=running_vm, session_key=key)
    SessionStore(key).delete()
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_a_revoked_token_spends_its_tickets(owner: User, running_vm: VM) -> None:
    token, _ = tokens.issue(owner, "cli", ("read", "write"), None)
    issued = tickets.issue(user=owner, vm=running_vm, api_token=token)
    token.revoked_at = timezone.now()
    token.save()
    with pytest.raises(Forbidden):
        tickets.redeem(issued.secret, kind="vnc")


def test_asking_too_often_is_refused(owner: User, running_vm: VM) -> None:
    for _ in range(tickets.ISSUES_PER_MINUTE):
        tickets.issue(user=owner, vm=running_vm)
    with pytest.raises(TooMany):
        tickets.issue(user=owner, vm=running_vm)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://kvm.test", "kvm.test", True),
        ("https://kvm.test:8443", "kvm.test:8443", True),
        ("https://evil.test", "kvm.test", False),
        ("https://kvm.test.evil.test", "kvm.test", False),
        ("https://kvm.test:444", "kvm.test", False),
        ("null", "kvm.test", False),
        ("", "kvm.test", False),
        ("http://", "", False),
        ("http://[", "kvm.test", False),
        # A name that somebody else points at this site (DNS rebinding).
        ("http://evil.test", "evil.test", False),
    ],
)
def test_the_origin_is_this_sites(origin: str, host: str, allowed: bool, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["kvm.test"]
    assert origins.is_ours(origin, host) is allowed


@pytest.mark.parametrize(
    ("carrier", "kind", "mode", "path"),
    [
        ("asgi", "vnc", "control", "ws/console/vnc"),
        ("asgi", "vnc", "view", "ws/console/vnc"),
        ("websockify", "vnc", "control", "ws/console/vnc"),
        ("websockify", "vnc", "view", "ws/console/view"),
        ("websockify", "serial", "control", "ws/console/serial"),
    ],
)
def test_the_ticket_says_where(
    owner: User, running_vm: VM, settings: Any, carrier: str, kind: str, mode: str, path: str
) -> None:
    """websockify carries who has control; who views shares a connection of the site's process."""
    settings.CONSOLE_CARRIER = carrier
    assert tickets.issue(user=owner, vm=running_vm, kind=kind, mode=mode).path == path


def test_the_api_gives_a_ticket(
    owner: User, outsider: User, running_vm: VM, api: Callable[..., object]
) -> None:
    answer = api(owner).post(f"/vms/{running_vm.uuid}/console", {"kind": "vnc"})  # type: ignore[attr-defined]
    assert answer.status_code == 200
    given = answer.json()
    assert given["url"].startswith("ws://")
    assert given["url"].endswith("/ws/console/vnc")
    assert given["protocols"][0] == "binary"
    assert given["mode"] == "control"
    refused = api(outsider).post(f"/vms/{running_vm.uuid}/console", {"kind": "vnc"})  # type: ignore[attr-defined]
    assert refused.status_code == 404
