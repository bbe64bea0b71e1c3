"""What the tab Guest shows. Database only; every word in it is the guest's, so templates escape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from accounts import messages, policy
from accounts.policy import Action
from vms.lifecycle import active_job
from vms.models import VM, GuestReport
from vms.verbs import Situation, Verb, why_not

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, kw_only=True)
class UserRow:
    name: str
    since: datetime | None


@dataclass(frozen=True, kw_only=True)
class GuestView:
    facts: dict[str, Any]  # GuestFacts as JSON; empty before its agent has spoken
    users: list[UserRow]
    observed_at: datetime | None
    tried_at: datetime | None
    trouble: str  # why the last question had no answer; "" when it had
    trouble_code: str
    trouble_ref: str
    why_not: str  # nothing can be asked now; "" when it can
    can_power: bool
    can_edit: bool
    first_user: str


def of(vm: VM, user: User) -> GuestView:
    report = GuestReport.objects.filter(vm=vm).first() or GuestReport(vm=vm)
    why = why_not(Situation.of(vm, active_job(vm)), Verb.REBOOT)
    host = vm.host.name if vm.host else ""
    return GuestView(
        facts=report.facts,
        users=[_user(row) for row in report.facts.get("users", ())],
        observed_at=report.observed_at,
        tried_at=report.tried_at,
        trouble=messages.text(report.error_code, {}) if report.error_code else "",
        trouble_code=report.error_code,
        trouble_ref=report.error_ref,
        why_not=messages.text(why, {"host": host, "name": vm.name}) if why else "",
        can_power=policy.can(user, Action.POWER, vm),
        can_edit=policy.can(user, Action.EDIT, vm),
        first_user=vm.first_user,
    )


def _user(row: dict[str, Any]) -> UserRow:
    name = f"{row['domain']}\\{row['name']}" if row.get("domain") else row["name"]
    since = row.get("since")
    return UserRow(
        name=name,
        since=None if since is None else datetime.fromtimestamp(since, tz=timezone.utc),
    )
