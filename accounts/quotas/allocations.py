"""What is allocated of the quota, and what is given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from django.db import models
from django.db.models import Q, Sum

from accounts.models import Allocation, QuotaLimit, Resource, Team, User
from accounts.quotas.locks import lock_teams, must_be_atomic
from accounts.quotas.standing import (
    Impact,
    Limit,
    impacts_of,
    is_lower,
    refuse,
    standing_of,
    tightest,
)

Ask = dict[Resource, int]
HELD, ACTIVE, RELEASING = (
    Allocation.State.HELD,
    Allocation.State.ACTIVE,
    Allocation.State.RELEASING,
)


class Machine(Protocol):
    """What a quota needs to know of a machine."""

    @property
    def pk(self) -> int: ...

    @property
    def team_id(self) -> int: ...

    @property
    def owner_id(self) -> int: ...


def effective_limits(team: Team, user: User | None = None) -> dict[Resource, Limit]:
    """The limit of each resource: the team's own or the site's default; the member's own where
    that is lower. A resource that nobody limits is unlimited."""
    standing = standing_of(team.pk, user.pk if user else None, ())
    limits = dict(standing.of_team)
    for resource, limit in standing.of_member.items():
        if is_lower(limit, limits[resource]):
            limits[resource] = limit
    return limits


def team_limits(team: Team) -> dict[Resource, Limit]:
    return standing_of(team.pk, None, ()).of_team


def usage(team: Team, user: User | None = None) -> dict[Resource, int]:
    """What the team has allocated, or one member's part of it."""
    rows = Allocation.objects.filter(team=team)
    if user is not None:
        rows = rows.filter(user=user)
    sums = rows.order_by().values("resource").annotate(total=Sum("amount"))
    return dict.fromkeys(Resource, 0) | {Resource(row["resource"]): row["total"] for row in sums}


def preview(team: Team, user: User, ask: Mapping[Resource, int]) -> list[Impact]:
    """What ``ask`` would do, without a lock: for forms and the API's dry run."""
    return tightest(impacts_of(standing_of(team.pk, user.pk, ask), ask))


def overview(team: Team, user: User) -> list[Impact]:
    """Every resource of the team with what is used of it, for gauges."""
    return preview(team, user, dict.fromkeys(Resource, 0))


def allocate(
    vm: Machine,
    ask: Mapping[Resource, int],
    *,
    state: Allocation.State = HELD,
    subject: str = "",
) -> None:
    """Take ``ask`` from the quota of the machine's team, for its owner, or raise
    ``QuotaExceeded``. The caller's transaction holds the lock until it ends.

    ``subject`` names a part of the machine ("snapshot:12") that is given back alone, by
    ``release_subject``.
    """
    _take(
        ask,
        state=state,
        vm_id=vm.pk,
        team_id=vm.team_id,
        user_id=vm.owner_id,
        subject=subject,
    )


def allocate_for(
    subject: str,
    ask: Mapping[Resource, int],
    *,
    team: Team,
    user: User,
    state: Allocation.State = HELD,
) -> None:
    """``allocate`` for what belongs to no machine: "template:3", a backup that outlives it."""
    if not subject:
        raise ValueError("what is no machine's needs a subject to be found again")
    _take(ask, state=state, vm_id=None, team_id=team.pk, user_id=user.pk, subject=subject)


def allocate_parts(parts: Mapping[str, Ask], *, team: Team, user: User) -> None:
    """``allocate_for`` of several subjects at once: they are refused together, by every limit that
    all of them would pass."""
    whole: Counter[Resource] = Counter()
    for ask in parts.values():
        whole.update(_positive(ask))
    _must_fit(dict(whole), team.pk, user.pk)
    for subject, ask in parts.items():
        allocate_for(subject, ask, team=team, user=user)


def count(vm: Machine, amounts: Mapping[Resource, int]) -> None:
    """Write down what a machine takes already, over the limit or not: adopted, started outside.
    Usage says what is true, and blocks the next growth. A resource is counted once."""
    activate(vm, amounts)
    held = set(_of(vm, amounts).values_list("resource", flat=True))
    Allocation.objects.bulk_create(
        Allocation(
            vm_id=vm.pk,
            team_id=vm.team_id,
            user_id=vm.owner_id,
            resource=resource,
            amount=amount,
            state=ACTIVE,
        )
        for resource, amount in amounts.items()
        if resource.value not in held and amount > 0
    )


def settle(vm: Machine, amounts: Mapping[Resource, int]) -> None:
    """The hypervisor has confirmed that the machine takes exactly this of these resources: what
    was held for a growth that came out smaller, or that is less after a shrink, is given back."""
    must_be_atomic()
    release(vm, amounts)
    count(vm, amounts)


def transfer(vm: Machine, *, team: Team, user: User, subjects: Collection[str] = ()) -> None:
    """Give all that the machine holds, and what is held under these ``subjects`` of its, to
    another team or owner, or raise ``QuotaExceeded`` for the receiving side. The caller writes the
    machine's own row in the same transaction."""
    must_be_atomic()
    lock_teams(vm.team_id, team.pk)
    ask = held_by(vm, subjects)
    stays = vm.team_id == team.pk
    if stays and vm.owner_id == user.pk:
        return
    impacts = impacts_of(standing_of(team.pk, user.pk, ask), ask)
    theirs = [one for one in impacts if not stays or one.scope == QuotaLimit.Scope.MEMBER]
    refuse(team.pk, user.pk, theirs)
    Allocation.objects.filter(_held_with(vm, subjects)).update(team_id=team.pk, user_id=user.pk)


def _held_with(vm: Machine, subjects: Collection[str]) -> Q:
    return Q(vm_id=vm.pk) | Q(subject__in=subjects, vm__isnull=True)


def activate(vm: Machine, resources: Iterable[Resource] | None = None) -> None:
    """The hypervisor has confirmed what was held."""
    _of(vm, resources).filter(state=HELD).update(state=ACTIVE)


def releasing(vm: Machine, resources: Iterable[Resource] | None = None) -> None:
    """It will be given back; it counts until the hypervisor has confirmed."""
    _of(vm, resources).update(state=RELEASING)


def release(vm: Machine, resources: Iterable[Resource] | None = None) -> None:
    """Give back: the hypervisor has confirmed that it is gone, or it never came to be."""
    _of(vm, resources).delete()


def activate_subject(subject: str) -> None:
    Allocation.objects.filter(subject=_named(subject), state=HELD).update(state=ACTIVE)


def release_subject(subject: str) -> None:
    Allocation.objects.filter(subject=_named(subject)).delete()


def held_by(vm: Machine, subjects: Collection[str] = ()) -> Ask:
    """All that one machine holds, and what is held under these subjects of its."""
    rows = Allocation.objects.filter(_held_with(vm, subjects)).order_by().values("resource")
    return {Resource(row["resource"]): row["total"] for row in rows.annotate(total=Sum("amount"))}


def _take(
    ask: Mapping[Resource, int],
    *,
    state: Allocation.State,
    vm_id: int | None,
    team_id: int,
    user_id: int,
    subject: str,
) -> None:
    wanted = _positive(ask)
    _must_fit(wanted, team_id, user_id)
    Allocation.objects.bulk_create(
        Allocation(
            vm_id=vm_id,
            team_id=team_id,
            user_id=user_id,
            subject=subject,
            resource=resource,
            amount=amount,
            state=state,
        )
        for resource, amount in wanted.items()
    )


def _must_fit(wanted: Ask, team_id: int, user_id: int) -> None:
    must_be_atomic()
    if wanted:
        lock_teams(team_id)
        refuse(team_id, user_id, impacts_of(standing_of(team_id, user_id, wanted), wanted))


def _positive(ask: Mapping[Resource, int]) -> Ask:
    if any(amount < 0 for amount in ask.values()):
        raise ValueError("an ask is never negative: release what is given back")
    return {Resource(resource): amount for resource, amount in ask.items() if amount}


def _named(subject: str) -> str:
    if not subject:
        raise ValueError("a subject is needed: without one it would be everybody's")
    return subject


def _of(
    vm: Machine, resources: Iterable[Resource] | None
) -> models.QuerySet[Allocation, Allocation]:
    rows = Allocation.objects.filter(vm_id=vm.pk)
    return rows if resources is None else rows.filter(resource__in=list(resources))
