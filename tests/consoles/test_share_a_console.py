"""Who is here, who has control, who may come: owner, teammate, viewer, outsider each time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from accounts import policy, services
from accounts.errors import Conflict, DomainError, Forbidden, NotFound, TooMany
from accounts.models import AuditEntry, Membership, Team, User
from accounts.policy import Action
from vms import timeline
from vms.consoles import control, gate, invites, sessions, sharing, tickets
from vms.models import VM, ConsoleAsk, ConsoleControl, ConsoleInvite, ConsoleSession

pytestmark = pytest.mark.django_db


def enter(user: User, vm: VM, mode: str = "", kind: str = "vnc", **more: Any) -> ConsoleSession:
    """Ask for a ticket, use it, be there."""
    issued = tickets.issue(user=user, vm=vm, mode=mode, kind=kind, **more)
    grant = tickets.redeem(issued.secret, kind=kind)
    return sessions.open_session(grant, carrier="asgi", address="192.0.2.7")


def leave(session: ConsoleSession, reason: str = "client") -> None:
    sessions.close_session(session, reason=reason, bytes_in=1, bytes_out=2)


def later(seconds: float) -> None:
    """All that happened at consoles was so much earlier."""
    by = timedelta(seconds=seconds)
    for row in ConsoleControl.objects.all():
        ConsoleControl.objects.filter(pk=row.pk).update(taken_at=row.taken_at - by)
    for session in ConsoleSession.objects.filter(ended_at__isnull=False):
        ended_at = session.ended_at
        assert ended_at is not None
        ConsoleSession.objects.filter(pk=session.pk).update(ended_at=ended_at - by)


# --- control ------------------------------------------------------------------------------------
def test_the_first_has_control_the_next_view(owner: User, teammate: User, vm: VM) -> None:
    assert enter(teammate, vm).mode == "control"
    assert enter(owner, vm).mode == "view"
    assert enter(teammate, vm, kind="serial").mode == "control"  # their own second console
    found = sharing.state(vm, owner)
    assert found.holder_id == teammate.pk
    assert [(p.name, p.kind, p.mode, p.is_me) for p in found.people] == [
        ("teammate", "vnc", "control", False),
        ("owner", "vnc", "view", True),
        ("teammate", "serial", "control", False),
    ]


def test_control_is_not_taken_by_asking_for_it(teammate: User, owner: User, vm: VM) -> None:
    enter(owner, vm)
    with pytest.raises(Conflict) as refused:
        tickets.issue(user=teammate, vm=vm, mode="control")
    assert refused.value.code == "console.held"
    assert refused.value.params == {"name": "owner"}
    with pytest.raises(Conflict):
        tickets.issue(user=teammate, vm=vm, take=True)
    with pytest.raises(Conflict):
        sharing.take(vm, actor=teammate)


@pytest.mark.parametrize("who", ["owner", "admin"])
def test_owner_and_admin_take_it_back(
    who: str, owner: User, admin: User, teammate: User, vm: VM
) -> None:
    held = enter(teammate, vm)
    person = {"owner": owner, "admin": admin}[who]
    assert enter(person, vm, take=True).mode == "control"
    grant = tickets.Grant(
        user=teammate, vm=vm, kind="vnc", mode=held.mode, session_key="", api_token_id=None
    )
    assert tickets.why_ended(grant) == "handed_over"
    kinds = [entry.kind for entry in timeline.entries(vm)]
    assert "console.taken" in kinds
    assert AuditEntry.objects.filter(verb="console.control_taken", actor=person).exists()


def test_a_manager_takes_it_back_a_member_does_not(
    owner: User, teammate: User, team: Team, make_vm: Callable[..., VM], make_user: Any
) -> None:
    vm = make_vm(teammate, team)
    another = make_user("another")
    Membership.objects.create(team=team, user=another, role=Membership.Role.MEMBER)
    enter(teammate, vm)
    with pytest.raises(Conflict):
        sharing.take(vm, actor=another)
    sharing.take(vm, actor=owner)
    assert control.holder(vm) == owner


def test_a_ticket_with_control_is_worth_nothing_once_it_moved(
    owner: User, teammate: User, vm: VM
) -> None:
    issued = tickets.issue(user=teammate, vm=vm)
    assert issued.mode == "control"
    sharing.take(vm, actor=owner)
    with pytest.raises(Conflict) as refused:
        tickets.redeem(issued.secret, kind="vnc")
    assert gate.CLOSE_CODES[gate.reason_of(refused.value)] == 4411


def test_it_lapses_when_its_holder_has_gone(owner: User, teammate: User, vm: VM) -> None:
    session = enter(teammate, vm)
    later(3600)  # sitting there for long changes nothing
    assert control.holder(vm) == teammate
    leave(session)
    assert control.holder(vm) == teammate  # a reload of the page
    later(31)
    assert control.holder(vm) is None
    assert enter(owner, vm).mode == "control"


def test_it_lapses_when_the_carrier_died(owner: User, teammate: User, vm: VM) -> None:
    session = enter(teammate, vm)
    later(61)
    ConsoleSession.objects.filter(pk=session.pk).update(seen_at=timezone.now() - sessions.STALE)
    assert control.holder(vm) is None
    sessions.end_lost()
    session.refresh_from_db()
    assert (session.end_reason, session.ended_at) == ("lost", session.seen_at)


def test_it_lapses_with_the_right_to_it(teammate: User, team: Team, vm: VM) -> None:
    enter(teammate, vm)
    Membership.objects.filter(team=team, user=teammate).update(role=Membership.Role.VIEWER)
    assert control.holder(vm) is None


def test_ask_and_give(owner: User, teammate: User, vm: VM) -> None:
    enter(owner, vm)
    enter(teammate, vm)
    may = sharing.state(vm, teammate).i_may
    assert (may.ask, may.take, may.give, may.invite) == (True, False, False, False)
    sharing.ask(vm, actor=teammate)
    sharing.ask(vm, actor=teammate)
    assert [ask.name for ask in sharing.state(vm, owner).asks] == ["teammate"]
    assert sharing.state(vm, teammate).i_asked
    with pytest.raises(Forbidden):
        sharing.give(vm, actor=teammate, to=teammate)
    sharing.give(vm, actor=owner, to=teammate)
    assert control.holder(vm) == teammate
    assert not ConsoleAsk.objects.exists()


def test_withdraw_and_leave_end_an_ask(owner: User, teammate: User, vm: VM) -> None:
    enter(owner, vm)
    here = enter(teammate, vm)
    sharing.ask(vm, actor=teammate)
    sharing.withdraw(vm, actor=teammate)
    assert not ConsoleAsk.objects.exists()
    sharing.ask(vm, actor=teammate)
    leave(here)
    assert not ConsoleAsk.objects.exists()
    with pytest.raises(Conflict, match=r"console\.not_here"):
        sharing.ask(vm, actor=teammate)


def test_give_to_somebody_who_may_and_is_here(
    owner: User, teammate: User, viewer: User, vm: VM
) -> None:
    enter(owner, vm)
    with pytest.raises(Conflict, match=r"console\.not_here"):
        sharing.give(vm, actor=owner, to=teammate)
    enter(viewer, vm)
    with pytest.raises(Conflict, match=r"console\.views_only"):
        sharing.give(vm, actor=owner, to=viewer)
    with pytest.raises(Forbidden):
        sharing.ask(vm, actor=viewer)


def test_put_down_it_waits_for_who_takes_it(owner: User, teammate: User, vm: VM) -> None:
    enter(owner, vm)
    watching = enter(teammate, vm)
    with pytest.raises(Conflict):
        sharing.release(vm, actor=teammate)
    sharing.release(vm, actor=owner)
    assert sharing.state(vm, owner).holder_id is None
    assert enter(owner, vm).mode == "view"  # a reconnecting page does not take it again
    assert sharing.state(vm, teammate).i_may.take
    sharing.take(vm, actor=teammate)
    assert control.holder(vm) == teammate
    leave(watching)


def test_an_outsider_sees_and_changes_nothing(owner: User, outsider: User, vm: VM) -> None:
    enter(owner, vm)
    with pytest.raises(NotFound):
        sharing.machine(outsider, vm.uuid)
    for act in (sharing.ask, sharing.take, sharing.release, sharing.withdraw):
        with pytest.raises(NotFound):
            act(vm, actor=outsider)
    with pytest.raises(NotFound):
        sharing.invite(vm, actor=outsider)


@pytest.mark.parametrize(
    ("mode", "mine", "expected"),
    [
        ("control", True, ""),
        ("control", False, "handed_over"),
        ("view", True, "control_given"),
        ("view", False, ""),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_who_is_told_that_control_moved(
    mode: str, mine: bool, expected: str, owner: User, vm: VM
) -> None:
    grant = tickets.Grant(
        user=owner, vm=vm, kind="vnc", mode=mode, session_key="", api_token_id=None
    )
    message = {"type": "console.mode", "holder": owner.pk if mine else None}
    assert await gate._reason_in(message, grant) == expected


# --- invites ------------------------------------------------------------------------------------
def test_an_invite_opens_the_console_and_nothing_else(
    owner: User, outsider: User, vm: VM, api: Callable[..., Any], make_vm: Any, team: Team
) -> None:
    _, token = sharing.invite(vm, actor=owner, mode="view")
    other = make_vm(owner, team)
    assert sharing.join(token, actor=outsider) == vm
    assert sharing.machine(outsider, vm.uuid) == vm
    session = enter(outsider, vm)
    assert (session.mode, session.invite) == ("view", ConsoleInvite.objects.get())
    of_machines = {*policy._MACHINE_ALL}
    allowed = {a for a in of_machines if policy.can(outsider, a, vm)}
    assert allowed == {Action.CONSOLE_VIEW}
    assert policy.granted_machines(outsider.pk) == {vm.uuid}
    assert not policy.can(outsider, Action.CONSOLE_VIEW, other)
    speaker = api(outsider)
    assert speaker.get(f"/vms/{vm.uuid}").status_code == 404
    assert speaker.get("/vms").json()["count"] == 0
    assert speaker.post(f"/vms/{vm.uuid}/start").status_code == 404
    assert speaker.get(f"/vms/{vm.uuid}/console/sharing").status_code == 200
    assert speaker.get(f"/vms/{vm.uuid}/console/invites").status_code == 403
    answer = speaker.post(f"/vms/{vm.uuid}/console", {"kind": "vnc", "mode": "control"})
    assert answer.status_code == 403
    assert speaker.post(f"/vms/{vm.uuid}/console/take").status_code == 403


def test_an_invite_to_control(owner: User, outsider: User, viewer: User, vm: VM) -> None:
    _, token = sharing.invite(vm, actor=owner, mode="control")
    for person in (outsider, viewer):
        sharing.join(token, actor=person)
        assert policy.can(person, Action.CONSOLE_CONTROL, vm)
        assert not policy.can(person, Action.POWER, vm)
    enter(owner, vm)
    enter(outsider, vm)
    sharing.give(vm, actor=owner, to=outsider)
    assert control.holder(vm) == outsider


def test_only_its_hash_is_kept(owner: User, vm: VM) -> None:
    row, token = sharing.invite(vm, actor=owner)
    assert token not in str(ConsoleInvite.objects.filter(pk=row.pk).values().get())
    assert token not in str(list(AuditEntry.objects.values()))


def test_who_may_invite(teammate: User, viewer: User, owner: User, admin: User, vm: VM) -> None:
    for person in (teammate, viewer):
        with pytest.raises(Forbidden):
            sharing.invite(vm, actor=person)
    for person in (owner, admin):
        sharing.invite(vm, actor=person)


def test_once_is_for_one_person(owner: User, outsider: User, make_user: Any, vm: VM) -> None:
    _, token = sharing.invite(vm, actor=owner, once=True)
    sharing.join(token, actor=owner)  # who may anyway does not use it up
    sharing.join(token, actor=outsider)
    sharing.join(token, actor=outsider)
    with pytest.raises(Conflict, match=r"console\.invite_used"):
        sharing.join(token, actor=make_user("late"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row, owner: ConsoleInvite.objects.update(expires_at=timezone.now()),
        lambda row, owner: sharing.revoke_invite(row, actor=owner),
        lambda row, owner: VM.objects.update(deleted_at=timezone.now()),
        lambda row, owner: User.objects.filter(pk=owner.pk).update(is_active=False),
    ],
    ids=["expired", "revoked", "deleted", "maker-deactivated"],
)
def test_an_invite_that_ended(
    spoil: Callable[[ConsoleInvite, User], None],
    owner: User,
    outsider: User,
    make_user: Any,
    vm: VM,
) -> None:
    row, token = sharing.invite(vm, actor=owner)
    sharing.join(token, actor=outsider)
    issued = tickets.issue(user=outsider, vm=vm)
    grant = tickets.redeem(issued.secret, kind="vnc")
    assert tickets.still_allowed(grant)
    unused = tickets.issue(user=outsider, vm=vm)
    spoil(row, owner)
    assert not tickets.still_allowed(grant)
    with pytest.raises(Forbidden):
        tickets.redeem(unused.secret, kind="vnc")
    with pytest.raises(NotFound):
        sharing.join(token, actor=make_user("late"))


def test_an_invite_ends_with_its_makers_rights(
    owner: User, teammate: User, outsider: User, team: Team, make_vm: Any, make_user: Any
) -> None:
    vm = make_vm(teammate, team)
    second = make_user("second")
    Membership.objects.create(team=team, user=second, role=Membership.Role.MANAGER)
    _, token = sharing.invite(vm, actor=second)
    sharing.join(token, actor=outsider)
    Membership.objects.filter(team=team, user=second).update(role=Membership.Role.MEMBER)
    assert not policy.can(outsider, Action.CONSOLE_VIEW, vm)


def test_a_deactivated_guest_is_out(owner: User, outsider: User, admin: User, vm: VM) -> None:
    _, token = sharing.invite(vm, actor=owner)
    sharing.join(token, actor=outsider)
    services.set_active(actor=admin, user=outsider, active=False)
    outsider.refresh_from_db()
    assert not policy.can(outsider, Action.CONSOLE_VIEW, vm)


def test_invites_are_bounded(owner: User, vm: VM) -> None:
    for _ in range(invites.LIVE_MAX):
        sharing.invite(vm, actor=owner)
    with pytest.raises(Conflict, match=r"console\.invites_many"):
        sharing.invite(vm, actor=owner)
    for hours in (0, -1, 24 * 365):
        with pytest.raises(DomainError, match=r"console\.invite"):
            sharing.invite(vm, actor=owner, hours=hours)


def test_lists_ask_for_invites_once(
    viewer: User, owner: User, team: Team, make_vm: Any, django_assert_max_num_queries: Any
) -> None:
    machines = [make_vm(owner, team) for _ in range(20)]
    door = policy.door(viewer)
    with django_assert_max_num_queries(3):  # teams, shares, invites
        assert not any(door.can(Action.CONSOLE_CONTROL, vm) for vm in machines)


# --- the API ------------------------------------------------------------------------------------
def test_by_the_api(owner: User, teammate: User, outsider: User, vm: VM, api: Any) -> None:
    mine, theirs = api(owner), api(teammate)
    at = f"/vms/{vm.uuid}/console"
    enter(owner, vm)
    given = theirs.post(at, {"kind": "serial"}).json()
    assert (given["mode"], given["kind"]) == ("view", "serial")
    assert given["url"].endswith("/ws/console/serial")
    refused = theirs.post(at, {"mode": "control"})
    assert (refused.status_code, refused.json()["code"]) == (409, "console.held")
    enter(teammate, vm)
    assert theirs.post(f"{at}/ask").json()["i_asked"]
    assert not theirs.delete(f"{at}/ask").json()["i_asked"]
    given = mine.post(f"{at}/give", {"to": "teammate"}).json()
    assert given["holder_name"] == "teammate"
    assert mine.post(f"{at}/give", {"to": "outsider"}).status_code == 404
    assert theirs.post(f"{at}/release").json()["holder_id"] is None
    assert mine.post(f"{at}/take").json()["holder_id"] == owner.pk
    made = mine.post(f"{at}/invites", {"mode": "view", "hours": 2})
    assert made.status_code == 201
    assert "/console/join/" in made.json()["url"]
    listed = mine.get(f"{at}/invites").json()
    assert listed["count"] == 1
    assert "url" not in listed["items"][0]
    assert mine.delete(f"{at}/invites/{made.json()['id']}").status_code == 204
    assert mine.get(f"{at}/invites").json()["count"] == 0
    assert theirs.get(f"{at}/invites").status_code == 403
    assert theirs.delete(f"{at}/invites/{made.json()['id']}").status_code == 403
    assert api(outsider).get(f"{at}/sharing").status_code == 404


# --- limits and rows ----------------------------------------------------------------------------
def test_limits_per_address(owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PER_ADDRESS", 2)
    enter(owner, vm)
    enter(owner, vm)
    with pytest.raises(TooMany, match=r"console\.per_address"):
        enter(owner, vm)


def test_a_session_tells_who_how_and_why(owner: User, vm: VM) -> None:
    session = enter(owner, vm)
    leave(session, "idle")
    leave(session, "client")  # its end is noted once
    session.refresh_from_db()
    assert (session.user, session.mode, session.end_reason) == (owner, "control", "idle")
    assert (session.bytes_in, session.bytes_out) == (1, 2)
    verbs = list(AuditEntry.objects.filter(verb__startswith="console.").values_list("verb"))
    assert verbs.count(("console.close",)) == 1
    assert timeline.entries(vm)[0].text.startswith("Console closed")


# --- at the same moment -------------------------------------------------------------------------
def at_once(*works: Callable[[], object]) -> list[object]:
    """Run them in threads that begin together; results, or the errors."""
    barrier = threading.Barrier(len(works))
    results: list[object] = [None] * len(works)

    def run(index: int, work: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            results[index] = work()
        except DomainError as error:
            results[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def codes(results: list[object]) -> list[str]:
    return sorted(r.code for r in results if isinstance(r, DomainError))


@pytest.mark.django_db(transaction=True)
def test_two_take_free_control_at_once(
    teammate: User, team: Team, make_user: Any, owner: User, vm: VM
) -> None:
    another = make_user("another")
    Membership.objects.create(team=team, user=another, role=Membership.Role.MEMBER)
    results = at_once(
        lambda: sharing.take(vm, actor=teammate), lambda: sharing.take(vm, actor=another)
    )
    assert codes(results) == ["console.held"]
    assert ConsoleControl.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_open_at_once_and_one_controls(owner: User, teammate: User, vm: VM) -> None:
    opened = at_once(
        lambda: tickets.issue(user=owner, vm=vm).mode,
        lambda: tickets.issue(user=teammate, vm=vm).mode,
    )
    assert sorted(map(str, opened)) == ["control", "view"]


@pytest.mark.django_db(transaction=True)
def test_an_invite_for_one_is_used_by_two_at_once(owner: User, make_user: Any, vm: VM) -> None:
    people = [make_user(f"guest-{number}") for number in range(4)]
    _, token = sharing.invite(vm, actor=owner, once=True)
    results = at_once(*[lambda p=p: sharing.join(token, actor=p) for p in people])  # type: ignore[misc]
    assert codes(results) == ["console.invite_used"] * 3


@pytest.mark.django_db(transaction=True)
def test_parallel_opens_do_not_pass_the_limit(
    owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PER_USER", 3)
    grants = [tickets.redeem(tickets.issue(user=owner, vm=vm).secret, kind="vnc") for _ in range(8)]
    results = at_once(
        *[lambda g=g: sessions.open_session(g, carrier="asgi", address="") for g in grants]  # type: ignore[misc]
    )
    assert codes(results) == ["console.per_user"] * 5
    assert ConsoleSession.objects.count() == 3
    assert connection.vendor in ("sqlite", "postgresql")
