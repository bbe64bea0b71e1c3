"""What may be asked for and granted: every wrong input at once, as ``Invalid`` with its fields."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from accounts import quotas
from accounts.errors import Invalid
from accounts.models import QuotaRequest, Resource, Team, User
from accounts.requests import reading
from accounts.requests.reading import Amounts

Scope = QuotaRequest.Scope
TEXT_MAX = 2000
LONGEST = timedelta(days=5 * 366)


def check(
    *,
    actor: User,
    team: Team,
    scope: str,
    amounts: Amounts,
    reason: str,
    until: datetime | None,
) -> str:
    """Of one that asks for amounts; returns the reason without spaces around it."""
    fields: dict[str, str] = {}
    if scope not in Scope.values:
        fields["scope"] = "request.scope_unknown"
    if not amounts:
        fields["amounts"] = "request.nothing"
    for resource, amount in amounts.items():
        if not 0 < amount <= quotas.LARGEST:
            fields[resource.value] = "request.bad_amount"
    reason = reason.strip()
    fields |= _wrong_words(reason, until)
    if not fields:
        fields = _pointless(actor, team, scope, amounts)
    if fields:
        raise Invalid("request.invalid", fields=fields, maximum=TEXT_MAX)
    return reason


def check_time(reason: str, until: datetime | None) -> str:
    """Of one that asks for a machine's time; returns the reason without spaces around it."""
    reason = reason.strip()
    fields = _wrong_words(reason, until)
    if until is None:
        fields["until"] = "request.bad_end"
    if fields:
        raise Invalid("request.invalid", fields=fields, maximum=TEXT_MAX)
    return reason


def check_end(moment: datetime | None, field: str) -> None:
    if not _is_end(moment):
        raise Invalid("request.bad_end", fields={field: "request.bad_end"})


def text_of(text: str, field: str, *, needed: bool = False) -> str:
    text = text.strip()
    if len(text) > TEXT_MAX or (needed and not text):
        raise Invalid("request.bad_text", fields={field: "request.bad_text"}, maximum=TEXT_MAX)
    return text


def granted_amounts(request: QuotaRequest, granted: Amounts) -> dict[Resource, int]:
    wanted = reading.asked(request)
    wrong = {
        resource.value: "request.bad_amount"
        for resource, amount in granted.items()
        if resource not in wanted or not 0 <= amount <= quotas.LARGEST
    }
    if wrong:
        raise Invalid("request.invalid", fields=wrong)
    amounts = wanted | dict(granted)
    if request.machine is None and not any(amounts.values()):
        raise Invalid("request.grants_nothing")
    return amounts


def _wrong_words(reason: str, until: datetime | None) -> dict[str, str]:
    fields = {}
    if not 1 <= len(reason) <= TEXT_MAX:
        fields["reason"] = "request.bad_reason"
    if not _is_end(until):
        fields["until"] = "request.bad_end"
    return fields


def _is_end(moment: datetime | None) -> bool:
    now = timezone.now()
    return moment is None or now < moment <= now + LONGEST


def _pointless(actor: User, team: Team, scope: str, amounts: Amounts) -> dict[str, str]:
    """What no grant could change: there is no such limit."""
    member = actor if scope == Scope.MEMBER else None
    held = quotas.own_limits(team, member) if member else {}
    of_team = quotas.team_limits(team)
    fields = {}
    for resource in amounts:
        hard = held.get(resource, quotas.UNLIMITED) if member else of_team[resource].hard
        if hard == quotas.UNLIMITED:
            fields[resource.value] = "request.no_own_limit" if member else "request.unlimited"
    return fields
