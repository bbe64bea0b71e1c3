"""Limits as people look at them: what is inherited, what is overridden, who is over.

``accounts.quotas`` decides; nothing here is asked before growth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q, Sum
from django.utils.translation import gettext as _

from accounts import quotas
from accounts.models import Allocation, Membership, QuotaGrant, QuotaLimit, Resource, Team, User
from accounts.quotas import UNLIMITED, amount_text, limit_text, resource_label


@dataclass(frozen=True, kw_only=True)
class Row:
    """One resource at one scope."""

    resource: Resource
    own: int | None  # None: inherited
    inherited: int | None  # None: nothing above binds it
    inherited_from: str  # "site", "team" or ""
    granted: int
    used: int

    @property
    def label(self) -> str:
        return resource_label(self.resource)

    @property
    def is_own(self) -> bool:
        return self.own is not None

    @property
    def base(self) -> int:
        """What holds without grants."""
        found = self.own if self.own is not None else self.inherited
        return UNLIMITED if found is None else found

    @property
    def hard(self) -> int:
        return UNLIMITED if self.base == UNLIMITED else self.base + self.granted

    @property
    def unlimited(self) -> bool:
        return self.hard == UNLIMITED

    @property
    def over(self) -> int:
        return 0 if self.unlimited else max(0, self.used - self.hard)

    @property
    def used_text(self) -> str:
        return amount_text(self.resource, self.used)

    @property
    def over_text(self) -> str:
        return amount_text(self.resource, self.over)

    @property
    def hard_text(self) -> str:
        return limit_text(self.resource, self.hard)

    @property
    def granted_text(self) -> str:
        return amount_text(self.resource, self.granted)


@dataclass(frozen=True, kw_only=True)
class Over:
    """A team, or a member in it, that uses more than its limit: it keeps it and cannot grow."""

    team: Team
    user: User | None
    resource: Resource
    used: int
    hard: int

    @property
    def by(self) -> int:
        return self.used - self.hard

    @property
    def text(self) -> str:
        who = (
            _("%(user)s in %(team)s") % {"user": self.user.username, "team": self.team.name}
            if self.user
            else self.team.name
        )
        return _("%(who)s: %(resource)s %(used)s of %(hard)s, %(by)s over") % {
            "who": who,
            "resource": resource_label(self.resource),
            "used": amount_text(self.resource, self.used),
            "hard": limit_text(self.resource, self.hard),
            "by": amount_text(self.resource, self.by),
        }


def rows(team: Team | None, user: User | None = None) -> list[Row]:
    """Every resource of the site (no team), a team, or a member in a team."""
    site = quotas.own_limits(None)
    if team is None:
        totals = Allocation.objects.order_by().values("resource").annotate(total=Sum("amount"))
        used = {Resource(row["resource"]): row["total"] for row in totals}
        return [
            Row(
                resource=resource,
                own=site.get(resource, UNLIMITED),
                inherited=None,
                inherited_from="",
                granted=0,
                used=used.get(resource, 0),
            )
            for resource in Resource
        ]
    own = quotas.own_limits(team, user)
    used = quotas.usage(team, user)
    granted = _granted(team, user)
    above = quotas.team_limits(team) if user else {}
    return [
        Row(
            resource=resource,
            own=own.get(resource),
            # A member without a limit of their own is bound by the team's alone.
            inherited=above[resource].hard if user else site.get(resource, UNLIMITED),
            inherited_from="team" if user else "site",
            granted=granted.get(resource, 0) if user is None or resource in own else 0,
            used=used[resource],
        )
        for resource in Resource
    ]


def over(teams: Iterable[Team] | None = None) -> list[Over]:
    """Who is over a limit now, the teams themselves and their members; all of them, or of some
    teams. A fixed number of queries."""
    of = Q() if teams is None else Q(team__in=[team.pk for team in teams])
    site = quotas.own_limits(None)
    limits: dict[tuple[int, int | None, Resource], int] = {
        (team, user, Resource(resource)): hard
        for team, user, resource, hard in QuotaLimit.objects.filter(
            of, team__isnull=False
        ).values_list("team", "user", "resource", "hard")
    }
    granted: dict[tuple[int, int | None, Resource], int] = {}
    grants = QuotaGrant.objects.live().filter(of)
    for team, user, resource, delta in grants.values_list("team", "user", "resource", "delta"):
        of_grant = (team, user, Resource(resource))
        granted[of_grant] = granted.get(of_grant, 0) + delta
    sums = Allocation.objects.filter(of).order_by().values("team", "user", "resource")
    used: dict[tuple[int, int | None, Resource], int] = {}
    for row in sums.annotate(total=Sum("amount")):
        for who in (row["user"], None):
            key = (row["team"], who, Resource(row["resource"]))
            used[key] = used.get(key, 0) + row["total"]
    found = []
    for key, amount in used.items():
        team_id, user_id, resource = key
        default = site.get(resource, UNLIMITED) if user_id is None else UNLIMITED
        hard = limits.get(key, default)
        if hard != UNLIMITED and amount > hard + granted.get(key, 0):
            found.append((team_id, user_id, resource, amount, hard + granted.get(key, 0)))
    teams_by_id = Team.objects.in_bulk({one[0] for one in found})
    users_by_id = User.objects.in_bulk({one[1] for one in found if one[1]})
    order = list(Resource)
    return sorted(
        (
            Over(
                team=teams_by_id[team_id],
                user=users_by_id[user_id] if user_id else None,
                resource=resource,
                used=amount,
                hard=hard,
            )
            for team_id, user_id, resource, amount, hard in found
        ),
        key=lambda one: (
            one.team.name,
            one.user.username if one.user else "",
            order.index(one.resource),
        ),
    )


def overridden_members(team: Team) -> dict[int, int]:
    """Member id -> how many limits of their own they have."""
    found: dict[int, int] = {}
    for user in QuotaLimit.objects.filter(scope=QuotaLimit.Scope.MEMBER, team=team).values_list(
        "user", flat=True
    ):
        if user is not None:
            found[user] = found.get(user, 0) + 1
    return found


def teams_with_own() -> dict[int, int]:
    """Team id -> how many limits of its own it has."""
    found: dict[int, int] = {}
    for team in QuotaLimit.objects.filter(scope=QuotaLimit.Scope.TEAM).values_list(
        "team", flat=True
    ):
        if team is not None:
            found[team] = found.get(team, 0) + 1
    return found


def members(team: Team) -> list[Membership]:
    return list(team.memberships.select_related("user").order_by("user__username"))


def _granted(team: Team, user: User | None) -> dict[Resource, int]:
    sums = QuotaGrant.objects.live().filter(team=team, user=user).order_by().values("resource")
    return {Resource(row["resource"]): row["total"] for row in sums.annotate(total=Sum("delta"))}
