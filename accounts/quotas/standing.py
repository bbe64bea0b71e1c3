"""How a member of a team stands: the limits that bind them, what live grants add, what is used."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.utils import timezone

from accounts.errors import QuotaExceeded
from accounts.models import Allocation, QuotaGrant, QuotaLimit, Resource, Team
from accounts.quotas.amounts import UNLIMITED, amount_text, limit_text, resource_label


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


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All that a check needs of one member of one team."""

    of_team: dict[Resource, Limit]  # of every resource
    of_member: dict[Resource, Limit]  # of those that the member is limited in
    # Of those resources that were asked for; of a member, where they are limited.
    used_by_team: dict[Resource, int]
    used_by_member: dict[Resource, int]


def standing_of(
    team_id: int, user_id: int | None, resources: Iterable[Resource] = tuple(Resource)
) -> Standing:
    """What is used is summed of these ``resources`` alone.

    One statement: growth waits for the team's lock while it is read.
    """
    found: dict[str, dict[Resource, int]] = {
        kind: {} for kind in ("site", "team", "member", "team+", "member+", "used", "mine")
    }
    with connection.cursor() as cursor:
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        cursor.execute(
            _standing_sql(frozenset(resources)),
            {"team": team_id, "user": -1 if user_id is None else user_id, "now": now},
        )
        for kind, resource, amount in cursor.fetchall():
            found[kind][Resource(resource)] = int(amount)
    of_team = {resource: Limit(hard=UNLIMITED, scope="site") for resource in Resource}
    of_team |= _as_limits("site", found["site"]) | _as_limits("team", found["team"])
    nothing = dict.fromkeys(resources, 0)
    return Standing(
        of_team=_with_grants(of_team, found["team+"]),
        of_member=_with_grants(_as_limits("member", found["member"]), found["member+"]),
        used_by_team=nothing | found["used"],
        used_by_member=nothing | found["mine"],
    )


# kind, resource, amount: the limits of each scope, and what live grants add.
_LIMITS_SQL = f"""
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
"""  # noqa: S608 - only the names of our own tables are put in
# Both read an index that holds the amounts. The member's part only where something limits it:
# else the condition ends it unread.
_SUMS_SQL = f"""
    UNION ALL
    SELECT 'used', resource, SUM(amount) FROM {Allocation._meta.db_table}
        WHERE team_id = %(team)s AND resource IN ({{resources}}) GROUP BY resource
    UNION ALL
    SELECT 'mine', resource, SUM(amount) FROM {Allocation._meta.db_table}
        WHERE team_id = %(team)s AND user_id = %(user)s AND resource IN ({{resources}})
            AND EXISTS (SELECT 1 FROM {QuotaLimit._meta.db_table}
                WHERE scope = 'member' AND team_id = %(team)s AND user_id = %(user)s)
        GROUP BY resource
"""  # noqa: S608


@functools.cache
def _standing_sql(resources: frozenset[Resource]) -> str:
    if not resources:
        return _LIMITS_SQL
    names = ", ".join(f"'{one.value}'" for one in Resource if one in resources)
    return _LIMITS_SQL + _SUMS_SQL.format(resources=names)


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


def impacts_of(standing: Standing, ask: Mapping[Resource, int]) -> list[Impact]:
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


def tightest(impacts: list[Impact]) -> list[Impact]:
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


def is_lower(limit: Limit, other: Limit) -> bool:
    if limit.hard == UNLIMITED:
        return False
    return other.hard == UNLIMITED or limit.hard < other.hard


def refuse(team: Team | int, owner_id: int, impacts: list[Impact]) -> None:
    """Raise where a limit would be passed by something of ``owner_id``'s."""
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
        owner_id=owner_id,
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
