"""Asking for more than a limit, and deciding over it.

    open ⇄ asked back -> approved | rejected | withdrawn

Who decides names the version that they have read: a second click, a second admin, a request that
was withdrawn or changed meanwhile get a clear answer, and nothing happens twice. What was asked
stays; what was granted stands beside it and becomes grants (``accounts.grants``). One that names a
machine asks for more time for it (``accounts.leases``) and for no amounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import audit, grants, leases, policy, quotas
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import (
    Membership,
    QuotaRequest,
    QuotaRequestEvent,
    QuotaRequestItem,
    RequestRule,
    Resource,
    Team,
    User,
)
from accounts.notifications import announce, notify, register_topic
from accounts.policy import Action

Amounts = Mapping[Resource, int]
Scope, State, Kind = QuotaRequest.Scope, QuotaRequest.State, QuotaRequestEvent.Kind
TEXT_MAX = 2000
OPEN_MAX = 10  # of one person at a time
LONGEST = timedelta(days=5 * 366)

register_topic("quota", _("Quota requests and grants"), of_team=_("Quota requests and grants"))


# --- asking --------------------------------------------------------------------------------------
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
    reason = _check(actor, team, scope, amounts, reason, until)
    return _ask(actor, team, amounts, QuotaRequest(scope=scope, reason=reason, until=until))


def ask_for_time(
    *, actor: User, machine: leases.Machine, reason: str, until: datetime | None
) -> QuotaRequest:
    """Ask that a machine may last until then. Decided by the site's admins. Raises as ``ask``, and
    Conflict where somebody has asked for this machine already."""
    policy.require(actor, Action.EDIT, machine)  # type: ignore[arg-type]
    reason = _check_time(reason, until)
    asked_for = QuotaRequest(
        reason=reason, until=until, machine=machine.uuid, machine_name=machine.name
    )
    return _ask(actor, machine.team, {}, asked_for)


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
        facts = _facts(amounts, request.until)
        _note(request, actor, Kind.CREATED, facts=facts)
        audit.record(
            actor,
            "request.create",
            request,
            after=facts | {"scope": request.scope, **_about(request)},
            target_name=team.name,
        )
        if not _approves_itself(request, amounts):
            _tell(deciders(request), "quota.asked", request, who=actor.display_name())
    return request


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
    _require_own(actor, request)
    if request.machine is not None:
        amounts = {}
        reason = _check_time(reason, until)
    else:
        reason = _check(actor, request.team, request.scope, amounts, reason, until)
    with transaction.atomic():
        row = _undecided(request)
        before = _facts(asked(row), row.until) | {"reason": row.reason}
        _move(row, State.OPEN, reason=reason, until=until)
        row.items.all().delete()
        _write_items(row, amounts)
        _note(row, actor, Kind.EDITED, facts={"before": before, "after": _facts(amounts, until)})
        audit.record(
            actor,
            "request.edit",
            row,
            before=before,
            after=_facts(amounts, until),
            target_name=row.team.name,
        )
        _tell(deciders(row), "quota.changed", row, who=actor.display_name())
    return row


def comment(
    request: QuotaRequest, *, actor: User, text: str, internal: bool = False
) -> QuotaRequestEvent:
    """Write into its history. ``internal``: only those who may decide read it."""
    policy.require(actor, Action.REQUEST_SEE, request)
    if internal:
        policy.require(actor, Action.REQUEST_DECIDE, request)
    text = _text(text, "comment", needed=True)
    with transaction.atomic():
        row = QuotaRequest.objects.select_for_update().get(pk=request.pk)
        event = _note(row, actor, Kind.COMMENTED, text=text, internal=internal)
        audit.record(
            actor,
            "request.comment",
            row,
            after={"internal": internal},
            target_name=row.team.name,
        )
        if row.state == State.ASKED_BACK and actor.pk == row.requester_id:
            _move(row, State.OPEN)
        told = deciders(row) if internal or actor.pk == row.requester_id else [row.requester]
        others = [person for person in told if person.pk != actor.pk]
        _tell(others, "quota.commented", row, internal=internal, who=actor.display_name())
    return event


def withdraw(request: QuotaRequest, *, actor: User) -> QuotaRequest:
    _require_own(actor, request)
    with transaction.atomic():
        row = _undecided(request)
        _move(row, State.WITHDRAWN, decided_at=timezone.now())
        _note(row, actor, Kind.WITHDRAWN)
        audit.record(actor, "request.withdraw", row, target_name=row.team.name)
    return row


# --- deciding ------------------------------------------------------------------------------------
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
    text, internal = _text(text, "text"), _text(internal, "internal")
    _check_end(ends_at, "ends_at")
    with transaction.atomic():
        row = _undecided(request, version)
        amounts = _granted(row, granted)
        _approve(row, actor=actor, amounts=amounts, ends_at=ends_at, text=text)
        if internal:
            _note(row, actor, Kind.COMMENTED, text=internal, internal=True)
    return row


def reject(
    request: QuotaRequest, *, actor: User, version: int, text: str, internal: str = ""
) -> QuotaRequest:
    """``text``, the reason, is what the requester reads."""
    policy.require(actor, Action.REQUEST_DECIDE, request)
    text, internal = _text(text, "text", needed=True), _text(internal, "internal")
    with transaction.atomic():
        row = _undecided(request, version)
        _move(row, State.REJECTED, decided_by=actor, decided_at=timezone.now())
        _note(row, actor, Kind.REJECTED, text=text)
        if internal:
            _note(row, actor, Kind.COMMENTED, text=internal, internal=True)
        audit.record(actor, "request.reject", row, after={"text": text}, target_name=row.team.name)
        _tell([row.requester], "quota.rejected", row)
    return row


def ask_back(request: QuotaRequest, *, actor: User, version: int, text: str) -> QuotaRequest:
    """Put a question to the requester; it waits for them until they write or change it."""
    policy.require(actor, Action.REQUEST_DECIDE, request)
    text = _text(text, "text", needed=True)
    with transaction.atomic():
        row = _undecided(request, version)
        _move(row, State.ASKED_BACK)
        _note(row, actor, Kind.ASKED_BACK, text=text)
        audit.record(
            actor, "request.ask_back", row, after={"text": text}, target_name=row.team.name
        )
        _tell([row.requester], "quota.asked_back", row, who=actor.display_name())
    return row


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
        _tell(people, "quota.escalated", request, internal=True, who=who)
        _note(request, None, Kind.ESCALATED, facts={"to": names})
        audit.record(
            None, "request.escalate", request, after={"to": names}, target_name=request.team.name
        )
    return True


# --- reading -------------------------------------------------------------------------------------
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


def prefilled(params: Mapping[str, Any]) -> str:
    """The address of a request that asks for what a refusal (``quota.exceeded``) said is
    missing; "" where it says nothing of the kind."""
    short = params.get("short") or []
    if not short or "team_id" not in params:
        return ""
    # A team's limit stands before a member's: raising the member's alone would not help.
    scope = Scope.MEMBER if all(one["scope"] == "member" for one in short) else Scope.TEAM
    missing = {
        one["resource"]: one["missing"]
        for one in short
        if (one["scope"] == "member") == (scope == Scope.MEMBER)
    }
    query = {"team": params["team_id"], "scope": scope.value, **missing}
    return f"{reverse('request_new')}?{urlencode(query)}"


def prefilled_for(team: Team, impacts: Iterable[quotas.Impact]) -> str:
    """The same from what a preview says is missing."""
    short = [
        {"resource": one.resource.value, "scope": one.scope, "missing": one.missing}
        for one in impacts
        if one.missing
    ]
    return prefilled({"team_id": team.pk, "short": short})


def rule() -> RequestRule:
    return RequestRule.objects.filter(pk=1).first() or RequestRule(pk=1)


def set_rule(
    *,
    actor: User,
    step: Amounts,
    quiet_days: int,
    grant_days: int,
    escalate_hours: int,
    escalate_to: User | None = None,
) -> RequestRule:
    """What happens by itself: ``step`` is the largest that approves itself, empty for none;
    ``escalate_hours`` 0 passes nothing on."""
    policy.require(actor, Action.SITE_ADMIN)
    numbers = {
        "quiet_days": quiet_days,
        "grant_days": grant_days,
        "escalate_hours": escalate_hours,
        **{resource.value: amount for resource, amount in step.items()},
    }
    wrong = {name: "rule.bad_number" for name, n in numbers.items() if not 0 <= n <= quotas.LARGEST}
    if not 1 <= grant_days <= LONGEST.days:
        wrong["grant_days"] = "rule.bad_number"
    if wrong:
        raise Invalid("request.invalid", fields=wrong)
    with transaction.atomic():
        before = rule()
        row, _made = RequestRule.objects.update_or_create(
            pk=1,
            defaults={
                "step": {resource.value: amount for resource, amount in step.items() if amount},
                "quiet_days": quiet_days,
                "grant_days": grant_days,
                "escalate_hours": escalate_hours,
                "escalate_to": escalate_to,
            },
        )
        audit.record(
            actor,
            "request.set_rule",
            row,
            before={"step": before.step, "escalate_hours": before.escalate_hours},
            after={"step": row.step, "escalate_hours": row.escalate_hours},
        )
    return row


# --- inside --------------------------------------------------------------------------------------
def _require_own(actor: User, request: QuotaRequest) -> None:
    policy.require(actor, Action.REQUEST_EDIT, request)


def _check(  # noqa: PLR0917 - the inputs of a request, in their order
    actor: User,
    team: Team,
    scope: str,
    amounts: Amounts,
    reason: str,
    until: datetime | None,
) -> str:
    """Every wrong input at once; returns the reason without spaces around it."""
    fields: dict[str, str] = {}
    if scope not in Scope.values:
        fields["scope"] = "request.scope_unknown"
    if not amounts:
        fields["amounts"] = "request.nothing"
    for resource, amount in amounts.items():
        if not 0 < amount <= quotas.LARGEST:
            fields[resource.value] = "request.bad_amount"
    reason = reason.strip()
    if not 1 <= len(reason) <= TEXT_MAX:
        fields["reason"] = "request.bad_reason"
    try:
        _check_end(until, "until")
    except Invalid as error:
        fields |= error.fields
    if not fields:
        fields = _pointless(actor, team, scope, amounts)
    if fields:
        raise Invalid("request.invalid", fields=fields, maximum=TEXT_MAX)
    return reason


def _check_time(reason: str, until: datetime | None) -> str:
    fields: dict[str, str] = {}
    reason = reason.strip()
    if not 1 <= len(reason) <= TEXT_MAX:
        fields["reason"] = "request.bad_reason"
    try:
        _check_end(until or timezone.now(), "until")
    except Invalid as error:
        fields |= error.fields
    if fields:
        raise Invalid("request.invalid", fields=fields, maximum=TEXT_MAX)
    return reason


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


def _check_end(moment: datetime | None, field: str) -> None:
    now = timezone.now()
    if moment is not None and not now < moment <= now + LONGEST:
        raise Invalid("request.bad_end", fields={field: "request.bad_end"})


def _text(text: str, field: str, *, needed: bool = False) -> str:
    text = text.strip()
    if len(text) > TEXT_MAX or (needed and not text):
        raise Invalid("request.bad_text", fields={field: "request.bad_text"}, maximum=TEXT_MAX)
    return text


def _granted(request: QuotaRequest, granted: Amounts) -> dict[Resource, int]:
    wanted = asked(request)
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


def _undecided(request: QuotaRequest, version: int | None = None) -> QuotaRequest:
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


def _move(row: QuotaRequest, to: str, **fields: Any) -> None:
    """The one transition: only from the state and version that were read."""
    changed = QuotaRequest.objects.filter(
        pk=row.pk, state__in=QuotaRequest.UNDECIDED, version=row.version
    ).update(state=to, version=F("version") + 1, **fields)
    if not changed:
        raise Conflict("request.has_changed")
    row.state, row.version = to, row.version + 1
    for name, value in fields.items():
        setattr(row, name, value)


def _approve(
    row: QuotaRequest,
    *,
    actor: User | None,
    amounts: Amounts,
    ends_at: datetime | None,
    text: str = "",
) -> None:
    if row.machine is not None:
        ends_at = ends_at or row.until
    _move(
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
    facts = _facts(amounts, ends_at)
    _note(row, actor, kind, text=text, facts=facts)
    audit.record(
        actor,
        "request.approve",
        row,
        before=_facts(asked(row), row.until),
        after=facts | _about(row),
        target_name=row.team.name,
    )
    as_asked = amounts == asked(row) and (row.machine is None or ends_at == row.until)
    code = "quota.approved" if as_asked else "quota.approved_in_part"
    _tell([row.requester], code, row)


def _approves_itself(request: QuotaRequest, amounts: Amounts) -> bool:
    """By the site's rule: a small step by somebody with no decision lately."""
    rules = rule()
    if (
        request.machine is not None
        or not rules.step
        or any(
            amount > int(rules.step.get(resource.value, 0)) for resource, amount in amounts.items()
        )
    ):
        return False
    since = timezone.now() - timedelta(days=rules.quiet_days)
    # Anybody's in this team: else a step for each of its people is no small step.
    recent = QuotaRequest.objects.filter(
        Q(requester=request.requester) | Q(team=request.team), decided_at__gte=since
    ).exclude(state=State.WITHDRAWN)
    if recent.exists():
        return False
    latest = timezone.now() + timedelta(days=rules.grant_days)
    ends_at = min(request.until, latest) if request.until else latest
    _approve(request, actor=None, amounts=amounts, ends_at=ends_at)
    return True


def _write_items(request: QuotaRequest, amounts: Amounts) -> None:
    QuotaRequestItem.objects.bulk_create(
        QuotaRequestItem(request=request, resource=resource, requested=amounts[resource])
        for resource in Resource
        if resource in amounts
    )


def _note(
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


def _facts(amounts: Amounts, until: datetime | None) -> dict[str, Any]:
    return {
        "amounts": {resource.value: amount for resource, amount in amounts.items()},
        "until": until.isoformat() if until else None,
    }


def _about(request: QuotaRequest) -> dict[str, str]:
    """The machine of one that asks for time, for the audit record."""
    if request.machine is None:
        return {}
    return {"machine": str(request.machine), "machine_name": request.machine_name}


def _tell(
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
