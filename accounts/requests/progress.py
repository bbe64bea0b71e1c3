"""One request from state to state, what is written of each, and who is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import F
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts import quotas
from accounts.errors import Conflict
from accounts.models import QuotaRequest, QuotaRequestEvent, User
from accounts.notifications import announce, notify, register_topic
from accounts.requests.reading import Amounts

State = QuotaRequest.State

register_topic("quota", _("Quota requests and grants"), of_team=_("Quota requests and grants"))


def undecided(request: QuotaRequest, version: int | None = None) -> QuotaRequest:
    """The row, locked behind its team, if it still waits (and is still what was read)."""
    quotas.lock_team(request.team_id)
    row = (
        QuotaRequest.objects.select_for_update(of=("self",))
        .select_related("team", "requester", "decided_by")
        .get(pk=request.pk)
    )
    if row.state == State.WITHDRAWN:
        raise Conflict("request.is_withdrawn")
    if not row.is_undecided:
        by = row.decided_by.display_name() if row.decided_by else ""
        raise Conflict(f"request.is_{row.state}", who=by)
    if version is not None and row.version != version:
        raise Conflict("request.has_changed")
    return row


def move(row: QuotaRequest, to: str, **fields: Any) -> None:
    """The one transition: only from the state and version that were read."""
    changed = QuotaRequest.objects.filter(
        pk=row.pk, state__in=QuotaRequest.UNDECIDED, version=row.version
    ).update(state=to, version=F("version") + 1, **fields)
    if not changed:
        raise Conflict("request.has_changed")
    row.state, row.version = to, row.version + 1
    for name, value in fields.items():
        setattr(row, name, value)


def note(
    request: QuotaRequest,
    actor: User | None,
    kind: QuotaRequestEvent.Kind,
    *,
    text: str = "",
    internal: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> QuotaRequestEvent:
    return QuotaRequestEvent.objects.create(
        request=request, actor=actor, kind=kind, text=text, internal=internal, facts=facts or {}
    )


def facts_of(amounts: Amounts, until: datetime | None) -> dict[str, Any]:
    return {
        "amounts": {resource.value: amount for resource, amount in amounts.items()},
        "until": until.isoformat() if until else None,
    }


def machine_of(request: QuotaRequest) -> dict[str, str]:
    """The machine of one that asks for time, for the audit record."""
    if request.machine is None:
        return {}
    return {"machine": str(request.machine), "machine_name": request.machine_name}


def tell(
    people: Iterable[User],
    code: str,
    request: QuotaRequest,
    *,
    internal: bool = False,
    **params: Any,
) -> None:
    """``internal``: only these people may know of it, not their team."""
    params |= {
        "url": reverse("request_detail", args=[request.pk]),
        "machine": request.machine_name,
        "team": request.team.name,
        "person": request.requester.display_name(),
    }
    if not internal:
        announce(request.team, people, code, **params)
        return
    for person in people:
        notify(person, code, **params)
