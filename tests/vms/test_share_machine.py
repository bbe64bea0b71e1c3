"""A machine is shared, lent and given away: who sees it then, what they may, and when that ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import policy, quotas, revocations, sharing, teams
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import (
    Allocation,
    AuditEntry,
    MachineOffer,
    MachineShare,
    Membership,
    Notification,
    QuotaLimit,
    Resource,
    Team,
    User,
)
from accounts.policy import Action
from jobs import consumers, live
from jobs.models import Job
from vms import ownership, presentation
from vms.models import VM

pytestmark = pytest.mark.django_db
MACHINE = [a for a in Action if a.value in ("see", "power", "edit", "delete", "share")] + [
    Action.CONSOLE_VIEW,
    Action.CONSOLE_CONTROL,
]
MAY = {
    "viewer": {"see", "console_view"},
    "operator": {"see", "console_view", "console_control", "power"},
    "manager": {"see", "console_view", "console_control", "power", "edit", "delete"},
}


def may(user: User, vm: VM) -> set[str]:
    return {action.value for action in MACHINE if policy.can(user, action, vm)}


def sees(user: User, vm: VM) -> bool:
    return VM.objects.visible_to(user).filter(pk=vm.pk).exists()


@pytest.fixture
def others(outsider: User, make_user: Callable[..., User]) -> Team:
    """A team of others: its manager is the outsider, and somebody in it only looks."""
    row = Team.objects.create(name="mordor")
    Membership.objects.create(team=row, user=outsider, role="manager")
    Membership.objects.create(team=row, user=make_user("watcher"), role="viewer")
    return row


# --- what a share allows -------------------------------------------------------------------------
@pytest.mark.parametrize("role", MAY)
def test_a_person(role: str, vm: VM, owner: User, outsider: User) -> None:
    assert not sees(outsider, vm)
    sharing.share(vm, actor=owner, role=role, user=outsider)
    assert sees(outsider, vm)
    assert may(outsider, vm) == MAY[role]
    assert presentation.machine(vm, outsider).shared
    job = Job.objects.create(kind="vm.start", vm=vm, actor=owner, team=vm.team, target_name="x")
    assert Job.objects.visible_to(outsider).filter(pk=job.pk).exists()
    assert policy.can(outsider, Action.JOB_CANCEL, job) is (role == "manager")


@pytest.mark.parametrize("role", MAY)
def test_a_team_whose_viewers_only_view(
    role: str, vm: VM, owner: User, admin: User, outsider: User, others: Team
) -> None:
    sharing.share(vm, actor=admin, role=role, team=others)
    watcher = User.objects.get(username="watcher")
    assert sees(watcher, vm)
    assert may(outsider, vm) == MAY[role]
    assert may(watcher, vm) == MAY["viewer"]
    Membership.objects.filter(team=others).delete()
    assert not sees(outsider, vm)
    assert may(outsider, vm) == set()


def test_the_strongest_way_counts(vm: VM, owner: User, viewer: User, teammate: User) -> None:
    sharing.share(vm, actor=owner, role="operator", user=viewer)
    assert may(viewer, vm) == MAY["operator"]
    assert not presentation.machine(vm, viewer).shared
    sharing.share(vm, actor=owner, role="viewer", user=teammate)
    assert may(teammate, vm) == MAY["operator"]  # as the member that they are


def test_it_reaches_one_machine_only(
    vm: VM, owner: User, outsider: User, make_vm: Callable[..., VM]
) -> None:
    other = make_vm(owner, vm.team)
    sharing.share(vm, actor=owner, role="manager", user=outsider)
    assert not sees(outsider, other)
    assert may(outsider, other) == set()
    assert not policy.can(outsider, Action.TEAM_SEE, vm.team)


def test_the_page_of_who_has_it(
    vm: VM, owner: User, outsider: User, viewer: User, browser: Callable[[User], Client]
) -> None:
    row = sharing.share(vm, actor=owner, role="operator", user=outsider)
    page = browser(owner).get(f"/machines/{vm.uuid}/?tab=access").content.decode()
    for text in ("outsider", "teammate", "Member of the team", "shared by owner"):
        assert text in page
    for person in (outsider, viewer):
        page = browser(person).get(f"/machines/{vm.uuid}/?tab=access").content.decode()
        assert "teammate" not in page
        assert "You may:" in page
    assert "shared" in browser(outsider).get("/machines/").content.decode()
    dialog = browser(owner).get(f"/machines/{vm.uuid}/access/?part=share&share={row.pk}")
    assert "is shared with outsider" in dialog.content.decode()
    assert browser(outsider).get(f"/machines/{vm.uuid}/access/?part=share").status_code == 403


def test_sharing_from_the_page(
    vm: VM, owner: User, outsider: User, team: Team, browser: Callable[[User], Client]
) -> None:
    at = f"/machines/{vm.uuid}/access/share/"
    client = browser(owner)
    assert client.post(at, {"username": "outsider", "role": "viewer"}).status_code == 302
    assert may(outsider, vm) == MAY["viewer"]
    for wrong in (
        {"username": "nobody", "role": "viewer"},
        {"username": "outsider", "role": "god"},
        {"username": "outsider", "team": str(team.pk), "role": "viewer"},
        {"team": "999", "role": "viewer"},
        {"role": "viewer"},
    ):
        assert client.post(at, wrong).status_code == 422, wrong
    share = MachineShare.objects.get()
    client.post(f"/machines/{vm.uuid}/access/{share.pk}/remove/")
    assert not sees(outsider, vm)
    assert list(Notification.objects.values_list("code", flat=True)) == [
        "sharing.ended",
        "sharing.shared",
    ]
    verbs = AuditEntry.objects.order_by("id").values_list("verb", flat=True)
    assert list(verbs)[-2:] == ["vm.share", "vm.unshare"]


# --- who may share -------------------------------------------------------------------------------
def test_only_who_may_share_does(
    vm: VM, owner: User, teammate: User, viewer: User, outsider: User, admin: User
) -> None:
    for person in (teammate, viewer):
        with pytest.raises(Forbidden):
            sharing.share(vm, actor=person, role="viewer", user=outsider)
    with pytest.raises(NotFound):
        sharing.share(vm, actor=outsider, role="manager", user=outsider)
    sharing.share(vm, actor=owner, role="manager", user=outsider)
    with pytest.raises(Forbidden):  # a share is not handed on
        sharing.share(vm, actor=outsider, role="viewer", user=admin)
    with pytest.raises(Forbidden):
        ownership.give(vm, actor=outsider, to=outsider)
    with pytest.raises(Conflict):
        sharing.share(vm, actor=admin, role="viewer", user=owner)


def test_nobody_puts_machines_before_strangers(vm: VM, owner: User, others: Team) -> None:
    with pytest.raises(Invalid):
        sharing.find_team(owner, others.pk)


def test_one_may_give_up_what_was_shared(
    vm: VM, owner: User, outsider: User, teammate: User
) -> None:
    row = sharing.share(vm, actor=owner, role="viewer", user=outsider)
    with pytest.raises(Forbidden):
        sharing.unshare(vm, row.pk, actor=teammate)
    sharing.unshare(vm, row.pk, actor=outsider)
    assert not sees(outsider, vm)


# --- what ends, ends at once ---------------------------------------------------------------------
@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(
        revocations, "_callbacks", [lambda one: told.append((one.user_id, one.reason))]
    )
    return told


def test_consoles_are_told(
    vm: VM,
    owner: User,
    outsider: User,
    others: Team,
    admin: User,
    ended: list[tuple[int, str]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    row = sharing.share(vm, actor=owner, role="operator", user=outsider)
    with django_capture_on_commit_callbacks(execute=True):
        sharing.share(vm, actor=owner, role="viewer", user=outsider)
    assert ended == [(outsider.pk, "unshared")]
    with django_capture_on_commit_callbacks(execute=True):
        sharing.unshare(vm, row.pk, actor=owner)
    assert len(ended) == 2
    row = sharing.share(vm, actor=admin, role="viewer", team=others)
    with django_capture_on_commit_callbacks(execute=True):
        sharing.unshare(vm, row.pk, actor=owner)
    watcher = User.objects.get(username="watcher")
    assert {user_id for user_id, _ in ended[2:]} == {outsider.pk, watcher.pk}


@pytest.mark.django_db(transaction=True)
async def test_live_pages_hear_of_it(
    vm: VM, owner: User, outsider: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asgiref.sync import sync_to_async

    before = await consumers._groups_of(outsider.pk)
    await sync_to_async(sharing.share)(vm, actor=owner, role="viewer", user=outsider)
    after = await consumers._groups_of(outsider.pk)
    assert after - before == {live.machine_group(vm.uuid)}
    assert live.machine_group(vm.uuid) in live.machine_groups(vm.owner_id, vm.team_id, vm.uuid)


# --- giving away ---------------------------------------------------------------------------------
def hold(vm: VM, **amounts: int) -> None:
    for resource, amount in amounts.items():
        Allocation.objects.create(
            vm=vm, team=vm.team, user=vm.owner, resource=resource, amount=amount, state="active"
        )


def test_a_stranger_takes_it_into_a_team_of_theirs(
    vm: VM, owner: User, teammate: User, outsider: User, browser: Callable[[User], Client]
) -> None:
    hold(vm, machines=1, vcpus=2)
    sharing.share(vm, actor=owner, role="viewer", user=teammate)
    at = f"/machines/{vm.uuid}/access/transfer/"
    assert browser(owner).post(at, {"username": "outsider"}).status_code == 302
    offer = MachineOffer.objects.get()
    vm.refresh_from_db()
    assert vm.owner == owner  # until they say yes
    assert not sees(outsider, vm)
    page = browser(outsider).get("/offers/").content.decode()
    assert "web-1" in page
    assert "Take it into outsider" in page
    assert "web-1" not in browser(teammate).get("/offers/").content.decode()
    own = Team.objects.get(personal_of=outsider)
    taken = browser(outsider).post(f"/offers/{offer.pk}/accept/", {"team": own.pk})
    assert taken["Location"] == f"/machines/{vm.uuid}/"
    vm.refresh_from_db()
    assert (vm.owner, vm.team) == (outsider, own)
    assert quotas.usage(own)[Resource.VCPUS] == 2
    assert set(Allocation.objects.values_list("team", "user")) == {(own.pk, outsider.pk)}
    assert not sees(owner, vm)
    assert not sees(teammate, vm)  # what the former owner shared has ended
    assert not MachineShare.objects.exists()
    codes = set(Notification.objects.values_list("user__username", "code"))
    assert {("outsider", "sharing.offered"), ("owner", "sharing.accepted")} <= codes


def test_the_receiving_quota_holds(vm: VM, owner: User, outsider: User) -> None:
    hold(vm, vcpus=2)
    own = Team.objects.get(personal_of=outsider)
    QuotaLimit.objects.create(scope="team", team=own, resource="vcpus", hard=1)
    offer = ownership.give(vm, actor=owner, to=outsider)
    assert offer is not None
    (shown,) = ownership.open_offers(outsider)
    assert shown.fits == []
    with pytest.raises(QuotaExceeded):
        ownership.accept(offer.pk, user=outsider, team=own)
    vm.refresh_from_db()
    assert vm.owner == owner
    assert Allocation.objects.get().team == vm.team
    assert MachineOffer.objects.filter(pk=offer.pk).exists()


@pytest.mark.parametrize("change", ["expired", "withdrawn", "moved", "lost", "deleted", "other"])
def test_an_offer_that_is_worth_nothing(
    change: str, vm: VM, owner: User, teammate: User, outsider: User, admin: User, team: Team
) -> None:
    teams.set_member(actor=owner, team=team, username="teammate", role="manager")
    offer = ownership.give(vm, actor=teammate, to=outsider)
    assert offer is not None
    taker = outsider
    match change:
        case "expired":
            MachineOffer.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        case "withdrawn":
            ownership.withdraw(vm, actor=owner)
        case "moved":
            ownership.give(vm, actor=owner, to=teammate)
        case "lost":
            teams.set_member(actor=owner, team=team, username="teammate", role="member")
        case "deleted":
            VM.objects.update(deleted_at=timezone.now())
        case _:
            taker = admin
    own = Team.objects.get(personal_of=taker)
    with pytest.raises(NotFound):
        ownership.accept(offer.pk, user=taker, team=own)
    assert VM.objects.get(pk=vm.pk).owner != taker


def test_nobody_takes_it_into_anothers_team(
    vm: VM, owner: User, outsider: User, team: Team, api: Callable[..., Any]
) -> None:
    offer = ownership.give(vm, actor=owner, to=outsider)
    assert offer is not None
    with pytest.raises(NotFound):
        ownership.accept(offer.pk, user=outsider, team=Team.objects.get(personal_of=owner))
    refused = api(outsider).post(f"/offers/{offer.pk}/accept", {"team": team.pk})
    assert refused.status_code == 422


def test_saying_no(vm: VM, owner: User, outsider: User, browser: Callable[[User], Client]) -> None:
    offer = ownership.give(vm, actor=owner, to=outsider)
    assert offer is not None
    assert browser(owner).post(f"/offers/{offer.pk}/decline/").status_code == 404
    assert browser(outsider).post(f"/offers/{offer.pk}/decline/").status_code == 302
    assert not MachineOffer.objects.exists()
    assert Notification.objects.filter(user=owner, code="sharing.declined").exists()


def test_within_the_team_a_manager_decides(
    vm: VM, owner: User, teammate: User, viewer: User, make_vm: Callable[..., VM], team: Team
) -> None:
    QuotaLimit.objects.create(scope="team", team=team, resource="vcpus", hard=1)
    hold(vm, vcpus=4)  # over the limit already: a change of owner takes nothing more
    assert ownership.give(vm, actor=owner, to=teammate) is None
    vm.refresh_from_db()
    assert vm.owner == teammate
    assert Allocation.objects.get().user == teammate
    QuotaLimit.objects.create(scope="member", team=team, user=owner, resource="vcpus", hard=1)
    with pytest.raises(QuotaExceeded):
        ownership.give(vm, actor=owner, to=owner)
    assert ownership.give(vm, actor=owner, to=viewer) is not None  # may own nothing in this team


def test_moving_ones_own_machine_to_another_team(
    vm: VM, owner: User, teammate: User, team: Team, others: Team, make_vm: Callable[..., VM]
) -> None:
    hold(vm, machines=1)
    own = Team.objects.get(personal_of=owner)
    with pytest.raises(NotFound):
        ownership.move_to_team(vm, actor=owner, team=others)
    sharing.share(vm, actor=owner, role="viewer", user=User.objects.get(username="watcher"))
    ownership.move_to_team(vm, actor=owner, team=own)
    vm.refresh_from_db()
    assert vm.team == own
    assert Allocation.objects.get().team == own
    assert MachineShare.objects.exists()  # the owner is the same, and so is their word
    assert not sees(teammate, vm)
    twin = make_vm(owner, team, vm.name)
    with pytest.raises(Invalid):
        ownership.move_to_team(twin, actor=owner, team=own)
    theirs = make_vm(teammate, team)
    with pytest.raises(Conflict):  # the owner has no part in that team
        ownership.move_to_team(theirs, actor=owner, team=own)


def test_not_while_a_job_works_on_it(vm: VM, owner: User, teammate: User) -> None:
    Job.objects.create(
        kind="vm.start", vm=vm, actor=owner, team=vm.team, target_name="x", state="running"
    )
    with pytest.raises(Conflict) as refused:
        ownership.give(vm, actor=owner, to=teammate)
    assert refused.value.code == "transfer.busy"


def test_the_api(
    vm: VM, owner: User, outsider: User, viewer: User, team: Team, api: Callable[..., Any]
) -> None:
    at = f"/vms/{vm.uuid}/access"
    made = api(owner).post(at, {"user": "outsider", "role": "operator"}).json()
    assert (made["user"], made["role"]) == ("outsider", "operator")
    assert api(outsider).get(f"/vms/{vm.uuid}").status_code == 200
    assert api(outsider).get(at).status_code == 403
    assert api(viewer).post(at, {"user": "viewer", "role": "manager"}).status_code == 403
    assert api(owner).get(at).json()["shares"][0]["id"] == made["id"]
    assert api(owner).delete(f"{at}/{made['id']}").status_code == 204
    assert api(outsider).get(f"/vms/{vm.uuid}").status_code == 404
    assert api(owner).post(f"/vms/{vm.uuid}/transfer", {"to": "outsider"}).json()["offered"]
    (offer,) = api(outsider).get("/offers").json()
    assert offer["machine"] == "web-1"
    assert api(outsider).post(f"/offers/{offer['id']}/accept", {}).status_code == 204
    assert api(owner).get(f"/vms/{vm.uuid}").status_code == 404
    assert VM.objects.get(pk=vm.pk).owner == outsider
