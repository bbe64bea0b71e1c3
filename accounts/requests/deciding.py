"""Deciding over a request: granted, whole or in part, refused, asked back, or passed on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from accounts import audit, grants, leases, policy
from accounts.models import QuotaRequest, QuotaRequestEvent, Resource, User
from accounts.policy import Action
from accounts.requests import inputs, progress, reading
from accounts.requests.reading import Amounts

State, Kind = QuotaRequest.State, QuotaRequestEvent.Kind


def approve(
    request: QuotaRequest,
    *,
    actor: User,
    version: int,
    granted: Amounts,
    ends_at: datetime | None,
    text: str = "",
    internal: str = "",
) -> QuotaRequest:
    """Grant what ``granted`` says of each row that was asked for; what it leaves out is granted
    as asked, 0 grants nothing. Of a machine's time ``ends_at`` is its new end, None: as asked.
    ``text`` goes to the requester, ``internal`` to deciders alone."""
    policy.require(actor, Action.REQUEST_DECIDE, request)
    text, internal = inputs.text_of(text, "text"), inputs.text_of(internal, "internal")
    inputs.check_end(ends_at, "ends_at")
    with transaction.atomic():
        row = progress.undecided(request, version)
        amounts = inputs.granted_amounts(row, granted)
        grant(row, actor=actor, amounts=amounts, ends_at=ends_at, text=text)
        if internal:
            progress.note(row, actor, Kind.COMMENTED, text=internal, internal=True)
    return row


def reject(
    request: QuotaRequest, *, actor: User, version: int, text: str, internal: str = ""
) -> QuotaRequest:
    """``text``, the reason, is what the requester reads."""
    policy.require(actor, Action.REQUEST_DECIDE, request)
    text, internal = inputs.text_of(text, "text", needed=True), inputs.text_of(internal, "internal")
    with transaction.atomic():
        row = progress.undecided(request, version)
        progress.move(row, State.REJECTED, decided_by=actor, decided_at=timezone.now())
        progress.note(row, actor, Kind.REJECTED, text=text)
        if internal:
            progress.note(row, actor, Kind.COMMENTED, text=internal, internal=True)
        audit.record(actor, "request.reject", row, after={"text": text}, target_name=row.team.name)
        progress.tell([row.requester], "quota.rejected", row)
    return row


def ask_back(request: QuotaRequest, *, actor: User, version: int, text: str) -> QuotaRequest:
    """Put a question to the requester; it waits for them until they write or change it."""
    policy.require(actor, Action.REQUEST_DECIDE, request)
    text = inputs.text_of(text, "text", needed=True)
    with transaction.atomic():
        row = progress.undecided(request, version)
        progress.move(row, State.ASKED_BACK)
        progress.note(row, actor, Kind.ASKED_BACK, text=text)
        audit.record(
            actor, "request.ask_back", row, after={"text": text}, target_name=row.team.name
        )
        progress.tell([row.requester], "quota.asked_back", row, who=actor.display_name())
    return row


def escalate(request: QuotaRequest, to: Iterable[User]) -> bool:
    """It has waited too long: tell other admins, once."""
    with transaction.atomic():
        waiting = QuotaRequest.objects.filter(
            pk=request.pk, state=State.OPEN, escalated_at__isnull=True
        )
        if not waiting.update(escalated_at=timezone.now()):
            return False
        people = list(to)
        names = [person.username for person in people]
        who = request.requester.display_name()
        progress.tell(people, "quota.escalated", request, internal=True, who=who)
        progress.note(request, None, Kind.ESCALATED, facts={"to": names})
        audit.record(
            None, "request.escalate", request, after={"to": names}, target_name=request.team.name
        )
    return True


def grant(
    row: QuotaRequest,
    *,
    actor: User | None,
    amounts: Amounts,
    ends_at: datetime | None,
    text: str = "",
) -> None:
    """In the transaction that has read ``row``. ``actor`` None: by the site's rule."""
    if row.machine is not None:
        ends_at = ends_at or row.until
    progress.move(
        row,
        State.APPROVED,
        decided_by=actor,
        decided_at=timezone.now(),
        granted_until=ends_at if row.machine else None,
    )
    for item in row.items.all():
        item.granted = amounts[Resource(item.resource)]
        item.save(update_fields=["granted"])
    if row.machine is not None and actor is not None and ends_at is not None:
        leases.keeper().extend(row.machine, row.team_id, ends_at, actor=actor)
    else:
        grants.give(row, amounts, ends_at=ends_at)
    kind = Kind.APPROVED if actor else Kind.AUTO_APPROVED
    facts = progress.facts_of(amounts, ends_at)
    progress.note(row, actor, kind, text=text, facts=facts)
    audit.record(
        actor,
        "request.approve",
        row,
        before=progress.facts_of(reading.asked(row), row.until),
        after=facts | progress.machine_of(row),
        target_name=row.team.name,
    )
    as_asked = amounts == reading.asked(row) and (row.machine is None or ends_at == row.until)
    code = "quota.approved" if as_asked else "quota.approved_in_part"
    progress.tell([row.requester], code, row)
