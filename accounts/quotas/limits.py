"""The limits of the site, of teams and of their members, and who sets them."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction

from accounts import audit, policy
from accounts.errors import Invalid
from accounts.models import QuotaLimit, Resource, Team, User
from accounts.quotas.amounts import LARGEST, UNLIMITED
from accounts.quotas.locks import lock_team


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


def _scope(team: Team | None, user: User | None) -> QuotaLimit.Scope:
    if team is None:
        return QuotaLimit.Scope.SITE
    return QuotaLimit.Scope.MEMBER if user is not None else QuotaLimit.Scope.TEAM
