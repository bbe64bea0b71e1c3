"""Limits and what is allocated of them.

Check and allocation happen in one transaction under a lock: on PostgreSQL the team's row, then
the membership's; on SQLite the writing transaction itself (``transaction_mode=IMMEDIATE``).
Locks are taken in the order site, team, member. Usage is always the SUM of the allocations:
there are no counters that could drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models, transaction
from django.db.models import Q, Sum
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from accounts import audit, policy
from accounts.errors import Invalid, QuotaExceeded
from accounts.models import Allocation, Membership, QuotaLimit, Resource, Team, User

Ask = dict[Resource, int]
UNLIMITED = QuotaLimit.UNLIMITED
HELD, ACTIVE, RELEASING = (
    Allocation.State.HELD,
    Allocation.State.ACTIVE,
    Allocation.State.RELEASING,
)
LARGEST = 1 << 50  # a limit beyond this is a typing error
_MIB_PER_GIB = 1024
_IN_MIB = frozenset({Resource.MEMORY_MIB, Resource.RUNNING_MEMORY_MIB})


@dataclass(frozen=True, kw_only=True)
class Limit:
    hard: int  # UNLIMITED, or the most that may be allocated
    scope: str  # QuotaLimit.Scope: where the number comes from


@dataclass(frozen=True, kw_only=True)
class Impact:
    """What an ask would do to one resource, against the limit that leaves the least."""

    resource: Resource
    used: int
    asked: int
    hard: int
    scope: str
    missing: int  # 0: it fits

    @property
    def label(self) -> str:
        return resource_label(self.resource)

    @property
    def unlimited(self) -> bool:
        return self.hard == UNLIMITED

    @property
    def used_text(self) -> str:
        return amount_text(self.resource, self.used)

    @property
    def asked_text(self) -> str:
        return amount_text(self.resource, self.asked)

    @property
    def hard_text(self) -> str:
        return amount_text(self.resource, self.hard)


def effective_limits(team: Team, user: User | None = None) -> dict[Resource, Limit]:
    """The limit of each resource: the team's own or the site's default; the member's own where
    that is lower. A resource that nobody limits is unlimited."""
    of_team, of_member = _limits(team.pk, user.pk if user else None)
    limits = dict(of_team)
    for resource, limit in of_member.items():
        if _is_lower(limit, limits[resource]):
            limits[resource] = limit
    return limits


def usage(team: Team, user: User | None = None) -> dict[Resource, int]:
    """What the team has allocated, or one member's part of it."""
    return _usage(team.pk, user.pk if user else None)


def preview(team: Team, user: User, ask: Mapping[Resource, int]) -> list[Impact]:
    """What ``ask`` would do, without a lock: for forms and the API's dry run."""
    return _impacts(team.pk, user.pk, ask)


def overview(team: Team, user: User) -> list[Impact]:
    """Every resource of the team with what is used of it, for gauges."""
    return preview(team, user, dict.fromkeys(Resource, 0))


def allocate(
    vm: models.Model, ask: Mapping[Resource, int], *, state: Allocation.State = HELD
) -> None:
    """Take ``ask`` from the quota of the machine's team, for its owner, or raise
    ``QuotaExceeded``. The caller's transaction holds the lock until it ends."""
    _must_be_atomic()
    team_id, user_id = vm.team_id, vm.owner_id  # type: ignore[attr-defined]
    wanted = _positive(ask)
    if not wanted:
        return
    team = _lock(team_id, user_id)
    short = [impact for impact in _impacts(team_id, user_id, wanted) if impact.missing]
    if short:
        raise _exceeded(team, short)
    Allocation.objects.bulk_create(
        Allocation(
            vm_id=vm.pk,
            team_id=team_id,
            user_id=user_id,
            resource=resource,
            amount=amount,
            state=state,
        )
        for resource, amount in wanted.items()
    )


def activate(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """The hypervisor has confirmed what was held."""
    _of(vm, resources).filter(state=HELD).update(state=ACTIVE)


def releasing(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """It will be given back; it counts until the hypervisor has confirmed."""
    _of(vm, resources).update(state=RELEASING)


def release(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """Give back: the hypervisor has confirmed that it is gone, or it never came to be."""
    _of(vm, resources).delete()


def settle(vm: models.Model, amounts: Mapping[Resource, int]) -> None:
    """What the machine really has of these resources, confirmed: replaces all that it holds of
    them. Growth was allocated before; this gives back the rest."""
    _must_be_atomic()
    _of(vm, amounts).delete()
    Allocation.objects.bulk_create(
        Allocation(
            vm_id=vm.pk,
            team_id=vm.team_id,  # type: ignore[attr-defined]
            user_id=vm.owner_id,  # type: ignore[attr-defined]
            resource=resource,
            amount=amount,
            state=ACTIVE,
        )
        for resource, amount in _positive(amounts).items()
    )


def lock_team(team: Team | int) -> Team:
    """Lock the team's row to the end of the transaction: for its quota, and for names that are
    unique in it."""
    _must_be_atomic()
    pk = team.pk if isinstance(team, Team) else team
    return Team.objects.select_for_update().get(pk=pk)


def set_limit(
    *,
    actor: User,
    resource: Resource,
    hard: int | None,
    team: Team | None = None,
    user: User | None = None,
) -> None:
    """Set the limit of the site (no team), a team, or a member in a team; ``None`` inherits.

    Lowering it below what is used destroys nothing: it blocks growth.
    """
    policy.require(actor, policy.Action.SITE_ADMIN)
    if hard is not None and not UNLIMITED <= hard <= LARGEST:
        raise Invalid("quota.bad_limit", fields={resource.value: "quota.bad_limit"})
    scope = _scope(team, user)
    with transaction.atomic():
        if team is not None:
            lock_team(team)
        rows = QuotaLimit.objects.select_for_update().filter(
            scope=scope, team=team, user=user, resource=resource
        )
        row = rows.first()
        before = row.hard if row else None
        if before == hard:
            return
        if hard is None:
            rows.delete()
        else:
            QuotaLimit.objects.update_or_create(
                scope=scope, team=team, user=user, resource=resource, defaults={"hard": hard}
            )
        audit.record(
            actor,
            "quota.set_limit",
            user or team,
            before={resource.value: before},
            after={resource.value: hard, "scope": scope.value},
            team_id=team.pk if team else None,
        )


def set_limits(
    *,
    actor: User,
    limits: Mapping[Resource, int | None],
    team: Team | None = None,
    user: User | None = None,
) -> None:
    """Several limits of one scope at once; see ``set_limit``."""
    wrong = {
        resource.value: "quota.bad_limit"
        for resource, hard in limits.items()
        if hard is not None and not UNLIMITED <= hard <= LARGEST
    }
    policy.require(actor, policy.Action.SITE_ADMIN)
    if wrong:
        raise Invalid("quota.bad_limit", fields=wrong)
    with transaction.atomic():
        for resource, hard in limits.items():
            set_limit(actor=actor, resource=resource, hard=hard, team=team, user=user)


def own_limits(team: Team | None, user: User | None = None) -> dict[Resource, int]:
    """The limits set at exactly this scope: what an override form shows."""
    rows = QuotaLimit.objects.filter(scope=_scope(team, user), team=team, user=user)
    return {Resource(resource): hard for resource, hard in rows.values_list("resource", "hard")}


def resource_label(resource: Resource | str) -> str:
    return str(Resource(resource).label)


def amount_text(resource: Resource | str, amount: int) -> str:
    """An amount with its unit, as a person reads it: ``3``, ``1.5 GiB``, ``20 GiB``."""
    kind = Resource(resource)
    if amount == UNLIMITED:
        return _("unlimited")
    if kind in _IN_MIB:
        if amount % _MIB_PER_GIB == 0:
            return f"{number_format(amount // _MIB_PER_GIB)} GiB"
        if amount > _MIB_PER_GIB:
            return f"{number_format(amount / _MIB_PER_GIB, decimal_pos=1)} GiB"
        return f"{number_format(amount)} MiB"
    if kind is Resource.DISK_GIB:
        return f"{number_format(amount)} GiB"
    return number_format(amount)


def _scope(team: Team | None, user: User | None) -> QuotaLimit.Scope:
    if team is None:
        return QuotaLimit.Scope.SITE
    return QuotaLimit.Scope.MEMBER if user is not None else QuotaLimit.Scope.TEAM


def _must_be_atomic() -> None:
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("quota locks are worth nothing outside a transaction")


def _lock(team_id: int, user_id: int) -> Team:
    team = lock_team(team_id)
    Membership.objects.select_for_update().filter(team_id=team_id, user_id=user_id).first()
    return team


def _positive(ask: Mapping[Resource, int]) -> Ask:
    if any(amount < 0 for amount in ask.values()):
        raise ValueError("an ask is never negative: release what is given back")
    return {Resource(resource): amount for resource, amount in ask.items() if amount}


def _limits(
    team_id: int, user_id: int | None
) -> tuple[dict[Resource, Limit], dict[Resource, Limit]]:
    """The limits of the team (its own or the site's), and those set for the member."""
    scopes = QuotaLimit.Scope
    wanted = Q(scope=scopes.SITE) | Q(scope=scopes.TEAM, team_id=team_id)
    if user_id is not None:
        wanted |= Q(scope=scopes.MEMBER, team_id=team_id, user_id=user_id)
    found: dict[str, dict[Resource, Limit]] = {scope.value: {} for scope in scopes}
    rows = QuotaLimit.objects.filter(wanted).values_list("scope", "resource", "hard")
    for scope, resource, hard in rows:
        found[scope][Resource(resource)] = Limit(hard=hard, scope=scope)
    of_team = {resource: Limit(hard=UNLIMITED, scope="site") for resource in Resource}
    of_team |= found["site"]
    of_team |= found["team"]
    return of_team, found["member"]


def _usage(team_id: int, user_id: int | None) -> dict[Resource, int]:
    rows = Allocation.objects.filter(team_id=team_id)
    if user_id is not None:
        rows = rows.filter(user_id=user_id)
    sums = rows.order_by().values("resource").annotate(total=Sum("amount"))
    used = dict.fromkeys(Resource, 0)
    used.update({Resource(row["resource"]): row["total"] for row in sums})
    return used


def _impacts(team_id: int, user_id: int, ask: Mapping[Resource, int]) -> list[Impact]:
    of_team, of_member = _limits(team_id, user_id)
    used_by_team = _usage(team_id, None)
    used_by_member = _usage(team_id, user_id) if of_member else {}
    impacts = []
    for resource in Resource:  # in the order that the enum declares: a stable first complaint
        if resource not in ask:
            continue
        impact = _impact(resource, ask[resource], used_by_team[resource], of_team[resource])
        if resource in of_member:
            own = _impact(resource, ask[resource], used_by_member[resource], of_member[resource])
            impact = min(impact, own, key=_headroom)
        impacts.append(impact)
    return impacts


def _impact(resource: Resource, asked: int, used: int, limit: Limit) -> Impact:
    missing = 0 if limit.hard == UNLIMITED or not asked else max(0, used + asked - limit.hard)
    return Impact(
        resource=resource,
        used=used,
        asked=asked,
        hard=limit.hard,
        scope=limit.scope,
        missing=missing,
    )


def _headroom(impact: Impact) -> float:
    return float("inf") if impact.unlimited else impact.hard - impact.used


def _is_lower(limit: Limit, other: Limit) -> bool:
    if limit.hard == UNLIMITED:
        return False
    return other.hard == UNLIMITED or limit.hard < other.hard


def _exceeded(team: Team, short: list[Impact]) -> QuotaExceeded:
    first = short[0]
    params: dict[str, Any] = {
        "resource": first.resource.value,
        "scope": first.scope,
        "team": team.name,
        "hard": first.hard,
        "used": first.used,
        "asked": first.asked,
        "missing": first.missing,
        # Every limit that is passed, so that a person mends all at once.
        "short": [
            {"resource": i.resource.value, "scope": i.scope, "hard": i.hard, "missing": i.missing}
            for i in short
        ],
    }
    return QuotaExceeded("quota.exceeded", **params)


def _of(
    vm: models.Model, resources: Iterable[Resource] | None
) -> models.QuerySet[Allocation, Allocation]:
    rows = Allocation.objects.filter(vm_id=vm.pk)
    return rows if resources is None else rows.filter(resource__in=list(resources))
