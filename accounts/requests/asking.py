"""Asking for more than a limit, or for a machine's time, until it is decided."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from accounts import audit, leases, policy, quotas
from accounts.errors import Conflict
from accounts.models import QuotaRequest, QuotaRequestEvent, QuotaRequestItem, Resource, Team, User
from accounts.policy import Action
from accounts.requests import deciding, inputs, progress, reading, rules
from accounts.requests.reading import Amounts

Scope, State, Kind = QuotaRequest.Scope, QuotaRequest.State, QuotaRequestEvent.Kind
OPEN_MAX = 10  # of one person at a time


def ask(
    *,
    actor: User,
    team: Team,
    amounts: Amounts,
    reason: str,
    scope: str = Scope.TEAM,
    until: datetime | None = None,
) -> QuotaRequest:
    """Ask for more: ``amounts`` on top of what the limits are now.

    A step that the site's rule allows is approved at once. Raises NotFound or Forbidden (the
    team), Invalid with every wrong input, Conflict where too many of theirs are open.
    """
    policy.require(actor, Action.TEAM_CREATE_VM, team)
    reason = inputs.check(
        actor=actor, team=team, scope=scope, amounts=amounts, reason=reason, until=until
    )
    return _ask(actor, team, amounts, QuotaRequest(scope=scope, reason=reason, until=until))


def ask_for_time(
    *, actor: User, machine: leases.Machine, reason: str, until: datetime | None
) -> QuotaRequest:
    """Ask that a machine may last until then. Decided by the site's admins. Raises as ``ask``, and
    Conflict where somebody has asked for this machine already."""
    # The row of another app's model: here it is known by what is needed of it.
    policy.require(actor, Action.EDIT, machine)  # type: ignore[arg-type]
    reason = inputs.check_time(reason, until)
    asked_for = QuotaRequest(
        reason=reason, until=until, machine=machine.uuid, machine_name=machine.name
    )
    return _ask(actor, machine.team, {}, asked_for)


def edit(
    request: QuotaRequest,
    *,
    actor: User,
    amounts: Amounts,
    reason: str,
    until: datetime | None,
) -> QuotaRequest:
    """Change an undecided request; what it said before stays in its history. Answers a question
    that was asked back."""
    policy.require(actor, Action.REQUEST_EDIT, request)
    if request.machine is not None:
        amounts = {}
        reason = inputs.check_time(reason, until)
    else:
        reason = inputs.check(
            actor=actor,
            team=request.team,
            scope=request.scope,
            amounts=amounts,
            reason=reason,
            until=until,
        )
    with transaction.atomic():
        row = progress.undecided(request)
        before = progress.facts_of(reading.asked(row), row.until) | {"reason": row.reason}
        progress.move(row, State.OPEN, reason=reason, until=until)
        row.items.all().delete()
        _write_items(row, amounts)
        progress.note(
            row,
            actor,
            Kind.EDITED,
            facts={"before": before, "after": progress.facts_of(amounts, until)},
        )
        audit.record(
            actor,
            "request.edit",
            row,
            before=before,
            after=progress.facts_of(amounts, until),
            target_name=row.team.name,
        )
        progress.tell(reading.deciders(row), "quota.changed", row, who=actor.display_name())
    return row


def comment(
    request: QuotaRequest, *, actor: User, text: str, internal: bool = False
) -> QuotaRequestEvent:
    """Write into its history. ``internal``: only those who may decide read it."""
    policy.require(actor, Action.REQUEST_SEE, request)
    if internal:
        policy.require(actor, Action.REQUEST_DECIDE, request)
    text = inputs.text_of(text, "comment", needed=True)
    with transaction.atomic():
        row = QuotaRequest.objects.select_for_update().get(pk=request.pk)
        event = progress.note(row, actor, Kind.COMMENTED, text=text, internal=internal)
        audit.record(
            actor,
            "request.comment",
            row,
            after={"internal": internal},
            target_name=row.team.name,
        )
        if row.state == State.ASKED_BACK and actor.pk == row.requester_id:
            progress.move(row, State.OPEN)
        told = (
            reading.deciders(row) if internal or actor.pk == row.requester_id else [row.requester]
        )
        others = [person for person in told if person.pk != actor.pk]
        progress.tell(others, "quota.commented", row, internal=internal, who=actor.display_name())
    return event


def withdraw(request: QuotaRequest, *, actor: User) -> QuotaRequest:
    policy.require(actor, Action.REQUEST_EDIT, request)
    with transaction.atomic():
        row = progress.undecided(request)
        progress.move(row, State.WITHDRAWN, decided_at=timezone.now())
        progress.note(row, actor, Kind.WITHDRAWN)
        audit.record(actor, "request.withdraw", row, target_name=row.team.name)
    return row


def _ask(actor: User, team: Team, amounts: Amounts, request: QuotaRequest) -> QuotaRequest:
    with transaction.atomic():
        quotas.lock_team(team)
        undecided = QuotaRequest.objects.filter(requester=actor, state__in=QuotaRequest.UNDECIDED)
        if undecided.count() >= OPEN_MAX:
            raise Conflict("request.too_many", maximum=OPEN_MAX)
        open_ones = QuotaRequest.objects.filter(state__in=QuotaRequest.UNDECIDED)
        if request.machine and open_ones.filter(machine=request.machine).exists():
            raise Conflict("request.time_asked", name=request.machine_name)
        request.team, request.requester = team, actor
        request.save()
        _write_items(request, amounts)
        facts = progress.facts_of(amounts, request.until)
        progress.note(request, actor, Kind.CREATED, facts=facts)
        audit.record(
            actor,
            "request.create",
            request,
            after=facts | {"scope": request.scope, **progress.machine_of(request)},
            target_name=team.name,
        )
        ends_at = rules.end_by_itself(request, amounts)
        if ends_at is not None:
            deciding.grant(request, actor=None, amounts=amounts, ends_at=ends_at)
        else:
            progress.tell(
                reading.deciders(request), "quota.asked", request, who=actor.display_name()
            )
    return request


def _write_items(request: QuotaRequest, amounts: Amounts) -> None:
    QuotaRequestItem.objects.bulk_create(
        QuotaRequestItem(request=request, resource=resource, requested=amounts[resource])
        for resource in Resource
        if resource in amounts
    )
