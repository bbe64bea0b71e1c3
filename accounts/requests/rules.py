"""What happens to requests by itself: a small step is approved, one that waits is passed on."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Invalid
from accounts.models import QuotaRequest, RequestRule, User
from accounts.policy import Action
from accounts.requests.inputs import LONGEST
from accounts.requests.reading import Amounts


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


def end_by_itself(request: QuotaRequest, amounts: Amounts) -> datetime | None:
    """Until when it is granted without a decision; None: it waits for one. For a small step by
    somebody with no decision lately."""
    rules = rule()
    if request.machine is not None or not rules.step:
        return None
    if any(amount > int(rules.step.get(resource.value, 0)) for resource, amount in amounts.items()):
        return None
    since = timezone.now() - timedelta(days=rules.quiet_days)
    # Anybody's in this team: else a step for each of its people is no small step.
    recent = QuotaRequest.objects.filter(
        Q(requester=request.requester) | Q(team=request.team), decided_at__gte=since
    ).exclude(state=QuotaRequest.State.WITHDRAWN)
    if recent.exists():
        return None
    latest = timezone.now() + timedelta(days=rules.grant_days)
    return min(request.until, latest) if request.until else latest
