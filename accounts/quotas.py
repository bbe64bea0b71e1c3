"""Limits and what is allocated of them.

Check and allocation happen in one transaction under a lock: on PostgreSQL the team's row, on
SQLite the writing transaction itself (``transaction_mode=IMMEDIATE``). Whoever changes a limit or
a grant of the team or of a member in it takes the same lock. Usage is always the SUM of the
allocations: there are no counters that could drift.

What a member may use is bound twice: by the team's limit and, where the member has one, by their
own. The limit of either is its own, else the one above it, plus the grants that are live.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Q, Sum
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from accounts import audit, policy
from accounts.errors import Invalid, QuotaExceeded
from accounts.models import Allocation, QuotaGrant, QuotaLimit, Resource, Team, User

Ask = dict[Resource, int]
UNLIMITED = QuotaLimit.UNLIMITED
HELD, ACTIVE, RELEASING = (
    Allocation.State.HELD,
    Allocation.State.ACTIVE,
    Allocation.State.RELEASING,
)
LARGEST = 1 << 50  # a limit beyond this is a typing error
_MIB_PER_GIB = 1024
IN_MIB = frozenset({Resource.MEMORY_MIB, Resource.RUNNING_MEMORY_MIB})
IN_GIB = frozenset({Resource.DISK_GIB, Resource.BACKUPS_GIB, Resource.IMAGES_GIB})


@dataclass(frozen=True, kw_only=True)
class Limit:
    hard: int  # UNLIMITED, or the most that may be allocated, with what is granted
    scope: str  # QuotaLimit.Scope: where the number comes from
    granted: int = 0  # of hard, by grants that are live now


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
        return limit_text(self.resource, self.hard)

    @property
    def after(self) -> int:
        return self.used + self.asked

    @property
    def after_text(self) -> str:
        return amount_text(self.resource, self.after)

    @property
    def missing_text(self) -> str:
        return amount_text(self.resource, self.missing)


def effective_limits(team: Team, user: User | None = None) -> dict[Resource, Limit]:
    """The limit of each resource: the team's own or the site's default; the member's own where
    that is lower. A resource that nobody limits is unlimited."""
    standing = _standing(team.pk, user.pk if user else None)
    limits = dict(standing.of_team)
    for resource, limit in standing.of_member.items():
        if _is_lower(limit, limits[resource]):
            limits[resource] = limit
    return limits


def team_limits(team: Team) -> dict[Resource, Limit]:
    return _standing(team.pk, None).of_team


def usage(team: Team, user: User | None = None) -> dict[Resource, int]:
    """What the team has allocated, or one member's part of it."""
    rows = Allocation.objects.filter(team=team)
    if user is not None:
        rows = rows.filter(user=user)
    sums = rows.order_by().values("resource").annotate(total=Sum("amount"))
    return dict.fromkeys(Resource, 0) | {Resource(row["resource"]): row["total"] for row in sums}


def preview(team: Team, user: User, ask: Mapping[Resource, int]) -> list[Impact]:
    """What ``ask`` would do, without a lock: for forms and the API's dry run."""
    return _tightest(_impacts(_standing(team.pk, user.pk), ask))


def overview(team: Team, user: User) -> list[Impact]:
    """Every resource of the team with what is used of it, for gauges."""
    return preview(team, user, dict.fromkeys(Resource, 0))


def allocate(
    vm: models.Model,
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
        team_id=vm.team_id,  # type: ignore[attr-defined]
        user_id=vm.owner_id,  # type: ignore[attr-defined]
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


def count(vm: models.Model, amounts: Mapping[Resource, int]) -> None:
    """Write down what a machine takes already, over the limit or not: adopted, started outside.
    Usage says what is true, and blocks the next growth. A resource is counted once."""
    activate(vm, amounts)
    held = set(_of(vm, amounts).values_list("resource", flat=True))
    Allocation.objects.bulk_create(
        Allocation(
            vm_id=vm.pk,
            team_id=vm.team_id,  # type: ignore[attr-defined]
            user_id=vm.owner_id,  # type: ignore[attr-defined]
            resource=resource,
            amount=amount,
            state=ACTIVE,
        )
        for resource, amount in amounts.items()
        if resource.value not in held and amount > 0
    )


def settle(vm: models.Model, amounts: Mapping[Resource, int]) -> None:
    """The hypervisor has confirmed that the machine takes exactly this of these resources: what
    was held for a growth that came out smaller, or that is less after a shrink, is given back."""
    _must_be_atomic()
    release(vm, amounts)
    count(vm, amounts)


def transfer(vm: models.Model, *, team: Team, user: User, subjects: Collection[str] = ()) -> None:
    """Give all that the machine holds, and what is held under these ``subjects`` of its, to
    another team or owner, or raise ``QuotaExceeded`` for the receiving side. The caller writes the
    machine's own row in the same transaction."""
    _must_be_atomic()
    lock_teams(vm.team_id, team.pk)  # type: ignore[attr-defined]
    ask = held_by(vm, subjects)
    stays = vm.team_id == team.pk  # type: ignore[attr-defined]
    if stays and vm.owner_id == user.pk:  # type: ignore[attr-defined]
        return
    impacts = _impacts(_standing(team.pk, user.pk), ask)
    _refuse(team.pk, [one for one in impacts if not stays or one.scope == QuotaLimit.Scope.MEMBER])
    Allocation.objects.filter(_held_with(vm, subjects)).update(team_id=team.pk, user_id=user.pk)


def _held_with(vm: models.Model, subjects: Collection[str]) -> Q:
    return Q(vm_id=vm.pk) | Q(subject__in=subjects, vm__isnull=True)


def activate(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """The hypervisor has confirmed what was held."""
    _of(vm, resources).filter(state=HELD).update(state=ACTIVE)


def releasing(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """It will be given back; it counts until the hypervisor has confirmed."""
    _of(vm, resources).update(state=RELEASING)


def release(vm: models.Model, resources: Iterable[Resource] | None = None) -> None:
    """Give back: the hypervisor has confirmed that it is gone, or it never came to be."""
    _of(vm, resources).delete()


def activate_subject(subject: str) -> None:
    Allocation.objects.filter(subject=_named(subject), state=HELD).update(state=ACTIVE)


def release_subject(subject: str) -> None:
    Allocation.objects.filter(subject=_named(subject)).delete()


def held_by(vm: models.Model, subjects: Collection[str] = ()) -> Ask:
    """All that one machine holds, and what is held under these subjects of its."""
    rows = Allocation.objects.filter(_held_with(vm, subjects)).order_by().values("resource")
    return {Resource(row["resource"]): row["total"] for row in rows.annotate(total=Sum("amount"))}


def lock_team(team: Team | int) -> Team:
    """Lock the team's row to the end of the transaction: for its quota, and for names that are
    unique in it."""
    _must_be_atomic()
    pk = team.pk if isinstance(team, Team) else team
    return Team.objects.select_for_update().get(pk=pk)


def lock_teams(*teams: int) -> None:
    """Several at once, always in the same order: two transfers that cross do not block each
    other."""
    for pk in sorted(set(teams)):
        lock_team(pk)


def set_limit(
    *,
    actor: User,
    resource: Resource,
    hard: int | None,
    team: Team | None = None,
    user: User | None = None,
) -> None:
    """Set the limit of the site (no team), a team, or a member in a team; ``None`` inherits.

    Lowering it below what is used destroys nothing: it blocks growth. A manager of the team may
    limit its other members; the rest is for admins.
    """
    require_may_limit(actor, team, user)
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


def require_may_limit(actor: User, team: Team | None, user: User | None) -> None:
    """Nobody but an admin raises their own limit, or a limit that binds a whole team."""
    if team is not None and user is not None and user.pk != actor.pk:
        policy.require(actor, policy.Action.TEAM_MANAGE, team)
    else:
        policy.require(actor, policy.Action.SITE_ADMIN)


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
    require_may_limit(actor, team, user)
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


def unit(resource: Resource) -> str:
    """What a person types an amount of it in; memory is kept in MiB and typed in GiB."""
    return "GiB" if resource in IN_MIB or resource in IN_GIB else ""


def amount_text(resource: Resource | str, amount: int) -> str:
    """An amount with its unit, as a person reads it: ``3``, ``1.5 GiB``, ``20 GiB``."""
    kind = Resource(resource)
    if amount == UNLIMITED:
        return _("unlimited")
    if kind in IN_MIB:
        if amount % _MIB_PER_GIB == 0:
            return f"{number_format(amount // _MIB_PER_GIB)} GiB"
        if amount > _MIB_PER_GIB:
            return f"{number_format(amount / _MIB_PER_GIB, decimal_pos=1)} GiB"
        return f"{number_format(amount)} MiB"
    if kind in IN_GIB:
        return f"{number_format(amount)} GiB"
    return number_format(amount)


def limit_text(resource: Resource | str, hard: int) -> str:
    """As ``amount_text``, with a word for nothing: it must not look like no limit."""
    return _("none") if hard == 0 else amount_text(resource, hard)


def _scope(team: Team | None, user: User | None) -> QuotaLimit.Scope:
    if team is None:
        return QuotaLimit.Scope.SITE
    return QuotaLimit.Scope.MEMBER if user is not None else QuotaLimit.Scope.TEAM


def _must_be_atomic() -> None:
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("quota locks are worth nothing outside a transaction")


def _take(
    ask: Mapping[Resource, int],
    *,
    state: Allocation.State,
    vm_id: int | None,
    team_id: int,
    user_id: int,
    subject: str,
) -> None:
    _must_be_atomic()
    wanted = _positive(ask)
    if not wanted:
        return
    team = lock_team(team_id)
    _refuse(team, _impacts(_standing(team_id, user_id), wanted))
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


def _positive(ask: Mapping[Resource, int]) -> Ask:
    if any(amount < 0 for amount in ask.values()):
        raise ValueError("an ask is never negative: release what is given back")
    return {Resource(resource): amount for resource, amount in ask.items() if amount}


def _named(subject: str) -> str:
    if not subject:
        raise ValueError("a subject is needed: without one it would be everybody's")
    return subject


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """All that a check needs of one member of one team."""

    of_team: dict[Resource, Limit]  # of every resource
    of_member: dict[Resource, Limit]  # of those that the member is limited in
    used_by_team: dict[Resource, int]
    used_by_member: dict[Resource, int]


def _standing(team_id: int, user_id: int | None) -> _Standing:
    """One statement: growth waits for the team's lock while it is read."""
    found: dict[str, dict[Resource, int]] = {
        kind: {} for kind in ("site", "team", "member", "team+", "member+", "used", "mine")
    }
    with connection.cursor() as cursor:
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        cursor.execute(
            _STANDING_SQL, {"team": team_id, "user": -1 if user_id is None else user_id, "now": now}
        )
        for kind, resource, amount in cursor.fetchall():
            found[kind][Resource(resource)] = int(amount)
    of_team = {resource: Limit(hard=UNLIMITED, scope="site") for resource in Resource}
    of_team |= _as_limits("site", found["site"]) | _as_limits("team", found["team"])
    nothing = dict.fromkeys(Resource, 0)
    return _Standing(
        of_team=_with_grants(of_team, found["team+"]),
        of_member=_with_grants(_as_limits("member", found["member"]), found["member+"]),
        used_by_team=nothing | found["used"],
        used_by_member=nothing | found["mine"],
    )


# kind, resource, amount: the limits of each scope, what live grants add, and the sums.
_STANDING_SQL = f"""
    SELECT scope, resource, hard FROM {QuotaLimit._meta.db_table}
        WHERE scope = 'site' OR (scope = 'team' AND team_id = %(team)s)
            OR (scope = 'member' AND team_id = %(team)s AND user_id = %(user)s)
    UNION ALL
    SELECT CASE WHEN user_id IS NULL THEN 'team+' ELSE 'member+' END, resource, SUM(delta)
        FROM {QuotaGrant._meta.db_table}
        WHERE team_id = %(team)s AND (user_id IS NULL OR user_id = %(user)s)
            AND starts_at <= %(now)s AND (expires_at IS NULL OR expires_at > %(now)s)
            AND revoked_at IS NULL
        GROUP BY 1, 2
    UNION ALL
    SELECT 'used', resource, SUM(amount) FROM {Allocation._meta.db_table}
        WHERE team_id = %(team)s GROUP BY resource
    UNION ALL
    SELECT 'mine', resource, SUM(amount) FROM {Allocation._meta.db_table}
        WHERE team_id = %(team)s AND user_id = %(user)s GROUP BY resource
"""  # noqa: S608 - only the names of our own tables are put in


def _as_limits(scope: str, hard: Mapping[Resource, int]) -> dict[Resource, Limit]:
    return {resource: Limit(hard=amount, scope=scope) for resource, amount in hard.items()}


def _with_grants(
    limits: dict[Resource, Limit], granted: Mapping[Resource, int]
) -> dict[Resource, Limit]:
    return {
        resource: limit
        if limit.hard == UNLIMITED or resource not in granted
        else Limit(
            hard=limit.hard + granted[resource], scope=limit.scope, granted=granted[resource]
        )
        for resource, limit in limits.items()
    }


def _impacts(standing: _Standing, ask: Mapping[Resource, int]) -> list[Impact]:
    """One for each limit that bears on the ask: the team's, then the member's own.

    In the order that the enum declares: a stable first complaint.
    """
    impacts = []
    for resource in Resource:
        if resource not in ask:
            continue
        asked = ask[resource]
        of_team, used = standing.of_team[resource], standing.used_by_team[resource]
        impacts.append(_impact(resource, asked, used, of_team))
        if resource in standing.of_member:
            used = standing.used_by_member[resource]
            impacts.append(_impact(resource, asked, used, standing.of_member[resource]))
    return impacts


def _tightest(impacts: list[Impact]) -> list[Impact]:
    """For each resource the one that leaves the least."""
    chosen: dict[Resource, Impact] = {}
    for impact in impacts:
        other = chosen.get(impact.resource)
        if other is None or _headroom(impact) < _headroom(other):
            chosen[impact.resource] = impact
    return list(chosen.values())


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


def _refuse(team: Team | int, impacts: list[Impact]) -> None:
    """Raise where a limit would be passed."""
    short = [impact for impact in impacts if impact.missing]
    if not short:
        return
    row = team if isinstance(team, Team) else Team.objects.get(pk=team)
    first = min(short, key=lambda impact: (list(Resource).index(impact.resource), -impact.missing))
    raise QuotaExceeded(
        "quota.exceeded",
        **_facts(first),
        team=row.name,
        team_id=row.pk,
        # Every limit that is passed, so that a person mends all at once.
        short=[_facts(impact) for impact in short],
    )


def _facts(impact: Impact) -> dict[str, Any]:
    return {
        "resource": impact.resource.value,
        "scope": impact.scope,
        "hard": impact.hard,
        "used": impact.used,
        "asked": impact.asked,
        "missing": impact.missing,
    }


def _of(
    vm: models.Model, resources: Iterable[Resource] | None
) -> models.QuerySet[Allocation, Allocation]:
    rows = Allocation.objects.filter(vm_id=vm.pk)
    return rows if resources is None else rows.filter(resource__in=list(resources))
