"""More than the limit, for a time: given by a decision, warned of, ended by the clock or taken
back. An end destroys nothing; it blocks growth until it fits again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts import audit, limits, policy, quotas
from accounts.errors import Conflict, NotFound
from accounts.models import (
    Membership,
    QuotaGrant,
    QuotaRequest,
    QuotaRequestEvent,
    Resource,
    Team,
    User,
)
from accounts.notifications import announce
from accounts.policy import Action
from accounts.quotas import UNLIMITED

WARN_DAYS = (7, 1)  # before the end, the earliest first
Kind = QuotaRequestEvent.Kind


@dataclass(frozen=True, kw_only=True)
class After:
    """What holds when a grant is gone, and by how much that is passed then."""

    resource: Resource
    used: int
    hard_now: int
    hard: int

    @property
    def over(self) -> int:
        return 0 if self.hard == UNLIMITED else max(0, self.used - self.hard)

    @property
    def label(self) -> str:
        return quotas.resource_label(self.resource)

    @property
    def used_text(self) -> str:
        return quotas.amount_text(self.resource, self.used)

    @property
    def over_text(self) -> str:
        return quotas.amount_text(self.resource, self.over)


def give(
    request: QuotaRequest, amounts: Mapping[Resource, int], *, ends_at: datetime | None
) -> list[QuotaGrant]:
    """One for each resource of which something was granted, in the transaction of the decision,
    which holds the team's lock."""
    now = timezone.now()
    person = request.requester if request.scope == QuotaRequest.Scope.MEMBER else None
    return QuotaGrant.objects.bulk_create(
        QuotaGrant(
            team=request.team,
            user=person,
            resource=resource,
            delta=amount,
            starts_at=now,
            expires_at=ends_at,
            request=request,
        )
        for resource, amount in amounts.items()
        if amount
    )


def revoke(grant: QuotaGrant, *, actor: User) -> QuotaGrant:
    """Take it back now. Raises Conflict where it has ended or was taken back already."""
    require_may_revoke(actor, grant)
    with transaction.atomic():
        quotas.lock_team(grant.team_id)
        now = timezone.now()
        if (
            not QuotaGrant.objects.live()
            .filter(pk=grant.pk)
            .update(revoked_at=now, revoked_by=actor, end_told_at=now)
        ):
            raise Conflict("grant.is_over")
        audit.record(
            actor,
            "grant.revoke",
            grant.user or grant.team,
            before={grant.resource: grant.delta},
            team_id=grant.team_id,
        )
        _note(grant, actor, Kind.REVOKED)
        _tell(grant, "quota.revoked")
    grant.refresh_from_db()
    return grant


def require_may_revoke(actor: User, grant: QuotaGrant) -> None:
    """Who may decide such a request: nobody takes part in their own but an admin for their team."""
    if grant.user_id is not None and grant.user_id != actor.pk:
        policy.require(actor, Action.TEAM_MANAGE, grant.team)
    else:
        policy.require(actor, Action.SITE_ADMIN)


def is_live(grant: QuotaGrant) -> bool:
    return QuotaGrant.objects.live().filter(pk=grant.pk).exists()


def may_revoke(actor: User, grant: QuotaGrant) -> bool:
    if grant.user_id is not None and grant.user_id != actor.pk:
        return policy.can(actor, Action.TEAM_MANAGE, grant.team)
    return policy.can(actor, Action.SITE_ADMIN)


def find(user: User, grant_id: int) -> QuotaGrant:
    """One that this person may see: whoever sees the team sees the team's; a member's own is for
    them and the managers. NotFound."""
    rows = QuotaGrant.objects.select_related("team", "user", "request")
    found = rows.filter(pk=grant_id).first() if grant_id < 1 << 62 else None
    if found is None or not policy.can(user, Action.TEAM_SEE, found.team):
        raise NotFound
    if found.user_id not in (None, user.pk) and not policy.can(
        user, Action.TEAM_MANAGE, found.team
    ):
        raise NotFound
    return found


def of_team(team: Team, reader: User) -> QuerySet[QuotaGrant, Any]:
    """The live ones that this reader may see, the first to end first."""
    rows = QuotaGrant.objects.live().filter(team=team).select_related("team", "user")
    if not policy.can(reader, Action.TEAM_MANAGE, team):
        rows = rows.filter(Q(user=None) | Q(user=reader))
    return rows.order_by("expires_at", "pk")


def without(grant: QuotaGrant) -> After:
    """What its end will mean, as things are now."""
    resource = Resource(grant.resource)
    row = next(one for one in limits.rows(grant.team, grant.user) if one.resource == resource)
    counts = is_live(grant) and row.hard != UNLIMITED
    return After(
        resource=resource,
        used=row.used,
        hard_now=row.hard,
        hard=row.hard - grant.delta if counts else row.hard,
    )


# --- the clock -----------------------------------------------------------------------------------
def warn_of_ends() -> None:
    """Tell of each end a week and a day before it; once each. One that was given for less than a
    week is not warned of on its first day."""
    now = timezone.now()
    soon = QuotaGrant.objects.live().filter(expires_at__lte=now + timedelta(days=max(WARN_DAYS)))
    for grant in soon.select_related("team", "user", "request", "request__requester"):
        if grant.expires_at is not None:
            left = grant.expires_at - now
            _warn(grant, min(days for days in WARN_DAYS if left <= timedelta(days=days)))


def _warn(grant: QuotaGrant, days: int) -> None:
    with transaction.atomic():
        unwarned = QuotaGrant.objects.filter(
            Q(warned_days=None) | Q(warned_days__gt=days), pk=grant.pk
        )
        if grant.expires_at is None or not unwarned.update(warned_days=days):
            return
        if grant.expires_at - grant.starts_at > timedelta(days=days):
            _note(grant, None, Kind.WARNED, facts={"days": days})
            _tell(grant, "quota.ends", ends_at=grant.expires_at)


def tell_of_ended() -> None:
    """A grant ends by the clock: from then on it does not count. This only says so."""
    ended = QuotaGrant.objects.filter(
        expires_at__lte=timezone.now(), end_told_at__isnull=True, revoked_at__isnull=True
    )
    for grant in ended.select_related("team", "user", "request", "request__requester"):
        with transaction.atomic():
            rows = QuotaGrant.objects.filter(pk=grant.pk, end_told_at__isnull=True)
            if not rows.update(end_told_at=timezone.now()):
                continue
            audit.record(
                None,
                "grant.end",
                grant.user or grant.team,
                before={grant.resource: grant.delta},
                team_id=grant.team_id,
            )
            _note(grant, None, Kind.ENDED, facts={"over": without(grant).over})
            _tell(grant, "quota.ended")


def _tell(grant: QuotaGrant, code: str, **params: Any) -> None:
    """Those whom it concerns: the member, or the managers and who asked for it."""
    people = {grant.user} if grant.user else set(_managers(grant.team))
    if grant.request is not None:
        people.add(grant.request.requester)
    announce(
        grant.team,
        sorted(people, key=lambda one: one.pk),
        code,
        url=reverse("team_quota", args=[grant.team_id]),
        resource=grant.resource,
        amount=grant.delta,
        team=grant.team.name,
        **params,
    )


def _managers(team: Team) -> list[User]:
    return list(
        User.objects.filter(
            is_active=True, memberships__team=team, memberships__role=Membership.Role.MANAGER
        )
    )


def _note(grant: QuotaGrant, actor: User | None, kind: QuotaRequestEvent.Kind, **more: Any) -> None:
    if grant.request_id is None:
        return
    facts = {"amounts": {grant.resource: grant.delta}} | more.pop("facts", {})
    QuotaRequestEvent.objects.create(
        request_id=grant.request_id, actor=actor, kind=kind, facts=facts, **more
    )
