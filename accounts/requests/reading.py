"""Finding a request, what it asks for, whom it waits for, and where to ask for what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet
from django.urls import reverse

from accounts import policy, quotas
from accounts.errors import NotFound
from accounts.models import Membership, QuotaRequest, QuotaRequestEvent, Resource, Team, User
from accounts.policy import Action

Amounts = Mapping[Resource, int]
Scope = QuotaRequest.Scope


def find(user: User, request_id: int) -> QuotaRequest:
    """One that this person may see, with what its page needs. NotFound."""
    rows = QuotaRequest.objects.select_related("team", "requester", "decided_by")
    found = rows.filter(pk=request_id).first() if request_id < 1 << 62 else None
    if found is None or not policy.can(user, Action.REQUEST_SEE, found):
        raise NotFound
    return found


def asked(request: QuotaRequest) -> dict[Resource, int]:
    return {Resource(item.resource): item.requested for item in request.items.all()}


def history(request: QuotaRequest, reader: User) -> QuerySet[QuotaRequestEvent, Any]:
    """What this reader may know of what happened to it."""
    rows = request.events.select_related("actor")
    if policy.can(reader, Action.REQUEST_DECIDE, request):
        return rows
    return rows.filter(internal=False)


def deciders(request: QuotaRequest) -> list[User]:
    """Whom it waits for: for a member's own limit the team's managers, else the admins."""
    admins = User.objects.filter(is_staff=True, is_active=True)
    people: QuerySet[User, User] = admins
    if request.scope == Scope.MEMBER:
        managers = User.objects.filter(
            is_active=True,
            memberships__team=request.team_id,
            memberships__role=Membership.Role.MANAGER,
        ).exclude(pk=request.requester_id)
        people = managers if managers.exists() else admins
    return list(people.exclude(pk=request.requester_id).order_by("pk"))


def prefilled(params: Mapping[str, Any], *, asker: User | AnonymousUser) -> str:
    """The address of a request that asks for what a refusal (``quota.exceeded``) said is
    missing; "" where it says nothing of the kind, or ``asker`` may not ask for it."""
    short = params.get("short") or []
    if not short or "team_id" not in params:
        return ""
    team = Team.objects.filter(pk=params["team_id"]).first()
    if team is None or not _may_ask(asker, team, params, short):
        return ""
    # A team's limit stands before a member's: raising the member's alone would not help.
    scope = Scope.MEMBER if all(one["scope"] == "member" for one in short) else Scope.TEAM
    missing = {
        one["resource"]: one["missing"]
        for one in short
        if (one["scope"] == "member") == (scope == Scope.MEMBER)
    }
    query = {"team": team.pk, "scope": scope.value, **missing}
    return f"{reverse('request_new')}?{urlencode(query)}"


def prefilled_for(team: Team, impacts: Iterable[quotas.Impact], *, asker: User, owner: User) -> str:
    """The same from what a preview says is missing for something of ``owner``'s."""
    short = [
        {"resource": one.resource.value, "scope": one.scope, "missing": one.missing}
        for one in impacts
        if one.missing
    ]
    params = {"team_id": team.pk, "owner_id": owner.pk, "short": short}
    return prefilled(params, asker=asker)


def _may_ask(
    asker: User | AnonymousUser, team: Team, params: Mapping[str, Any], short: list[dict[str, Any]]
) -> bool:
    """For a limit of their own only they can ask; for a team's, who makes machines there."""
    own = any(one["scope"] == "member" for one in short)
    if isinstance(asker, AnonymousUser) or (own and params.get("owner_id") != asker.pk):
        return False
    return policy.can(asker, Action.TEAM_CREATE_VM, team)
