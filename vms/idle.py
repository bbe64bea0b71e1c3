"""Machines that nobody uses: their people are told, then they are stopped. Off until an admin says.

Use is processor time or sent bytes over ten minutes, above what a guest does by itself, or a
console. A machine that nobody watched (it has just been started, the watcher was away) counts as
used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError, Invalid
from accounts.policy import Action
from jobs import services as job_services
from jobs.models import Job
from vms import state, timeline
from vms.leases import not_now, tell, way_of
from vms.models import VM, ConsoleSession, MachineRules, VMQuerySet
from vms.state import ON

if TYPE_CHECKING:
    from accounts.models import User
    from hosts.models import Host
    from hosts.watch import DomainSample

log = logging.getLogger(__name__)

STOP = "vm.stop_idle"
DAYS_MAX = 365
STOP_DAYS_MIN, STOP_DAYS_MAX = 1, 90
# Nobody looked for so long: nothing is known of that time.
GAP = timedelta(minutes=30)
SEEN_LATELY = timedelta(minutes=5)
AT_ONCE = 50


def note_activity(host: Host, samples: Sequence[DomainSample]) -> None:
    """By the watcher, before it writes the samples: one UPDATE for all that were in use."""
    now = timezone.now()
    used = [sample.uuid for sample in samples if sample.activity and _is_use(sample)]
    unwatched = Q(sampled_at=None) | Q(sampled_at__lt=now - GAP) | Q(last_active_at=None)
    sampled = [sample.uuid for sample in samples]
    in_use = VM.objects.alive().filter(
        Q(uuid__in=used) | (unwatched & Q(uuid__in=sampled)), host=host, observed__in=ON
    )
    keys = list(in_use.values_list("pk", flat=True))
    if keys:  # mostly not: a write of nothing takes SQLite's lock too
        VM.objects.filter(pk__in=keys).update(last_active_at=now)


def keep(vm: VM, *, actor: User) -> VM:
    """It is in use, somebody says: the days begin anew."""
    policy.require(actor, Action.POWER, vm)
    with transaction.atomic():
        row = VM.objects.in_use().select_for_update().filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        row.last_active_at, row.idle_told_at = timezone.now(), None
        row.save(update_fields=["last_active_at", "idle_told_at"])
        audit.record(actor, "vm.keep", row, team_id=row.team_id)
        timeline.record(row, "lease.kept", actor=actor)
        state.announce(row)
    return row


def set_rule(*, actor: User, idle_days: int, idle_stop_days: int) -> None:
    """``idle_days`` 0: nobody looks."""
    policy.require(actor, Action.SITE_ADMIN)
    wrong = {}
    if not 0 <= idle_days <= DAYS_MAX:
        wrong["idle_days"] = "lease.idle_days"
    if not STOP_DAYS_MIN <= idle_stop_days <= STOP_DAYS_MAX:
        wrong["idle_stop_days"] = "lease.idle_stop_days"
    if wrong:
        raise Invalid(
            next(iter(wrong.values())), fields=wrong, idle_max=DAYS_MAX, stop_max=STOP_DAYS_MAX
        )
    with transaction.atomic():
        rules = MachineRules.locked()
        before = {"idle_days": rules.idle_days, "idle_stop_days": rules.idle_stop_days}
        rules.idle_days, rules.idle_stop_days = idle_days, idle_stop_days
        rules.save(update_fields=["idle_days", "idle_stop_days"])
        after = {"idle_days": idle_days, "idle_stop_days": idle_stop_days}
        audit.record(actor, "lease.set_idle", before=before, after=after)
        # An old word does not count for a new rule.
        VM.objects.exclude(idle_told_at=None).update(idle_told_at=None)


def rounds() -> None:
    """Called by beat each minute."""
    rules = MachineRules.current()
    if not rules.idle_days:
        return
    _forget_told_that_are_used()
    for vm in _unused(timezone.now() - timedelta(days=rules.idle_days)).filter(idle_told_at=None)[
        :AT_ONCE
    ]:
        _tell_of(vm, rules)
    told_before = timezone.now() - timedelta(days=rules.idle_stop_days)
    for vm in _unused(told_before).filter(idle_told_at__lte=told_before)[:AT_ONCE]:
        try:
            _stop(vm)
        except DomainError as error:  # noqa: PERF203 - each is settled for itself
            log.info("%s is not stopped yet, unused as it is: %s", vm.uuid, error.code)


def stops_at(vm: VM, rules: MachineRules) -> datetime | None:
    """When one that its people were told of is stopped."""
    if vm.idle_told_at is None or not rules.idle_days or vm.observed not in ON:
        return None
    return vm.idle_told_at + timedelta(days=rules.idle_stop_days)


def tell_unsaved(vm: VM) -> None:
    """Once, however often it is tried: it stays suspended."""
    failed = vm.jobs.filter(kind=STOP, state=Job.State.FAILED, data__unsaved=True)
    if vm.idle_told_at is not None and failed.filter(created_at__gte=vm.idle_told_at).count() == 1:
        tell(vm, "lease.idle_not_saved")
        timeline.record(vm, "lease.not_saved")


# --- inside ---------------------------------------------------------------------------------------
def _is_use(sample: DomainSample) -> bool:
    did = sample.activity
    return did is not None and (
        did.cpu_percent >= settings.IDLE_CPU_PERCENT
        or did.sent_bytes_s >= settings.IDLE_SENT_BYTES_S
    )


def _unused(before: datetime) -> VMQuerySet:
    """Running, watched, and without use since then."""
    consoles = ConsoleSession.objects.filter(seen_at__gt=before)
    return (
        VM.objects.in_use()
        .filter(
            observed__in=ON,
            last_active_at__lte=before,
            sampled_at__gt=timezone.now() - SEEN_LATELY,
        )
        .exclude(started_at__gt=before)
        .exclude(pk__in=consoles.order_by().values("vm"))
        .exclude(not_now(STOP))
        .select_related("owner", "team")
    )


def _forget_told_that_are_used() -> None:
    told = VM.objects.exclude(idle_told_at=None)
    used = told.filter(
        Q(last_active_at__gt=F("idle_told_at"))
        | Q(started_at__gt=F("idle_told_at"))
        | Q(console_sessions__seen_at__gt=F("idle_told_at"))
    )
    keys = list(used.values_list("pk", flat=True).distinct())
    VM.objects.filter(pk__in=keys).update(idle_told_at=None)


def _tell_of(vm: VM, rules: MachineRules) -> None:
    with transaction.atomic():
        now = timezone.now()
        if VM.objects.filter(pk=vm.pk, idle_told_at=None).update(idle_told_at=now):
            stop_at = now + timedelta(days=rules.idle_stop_days)
            tell(vm, "lease.idle", days=rules.idle_days, stop_at=stop_at, way=way_of(vm))
            timeline.record(vm, "lease.idle", days=rules.idle_days)
            state.announce(vm)


def _stop(vm: VM) -> None:
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = (
            VM.objects.in_use()
            .select_for_update(of=("self",))
            .select_related("owner", "team", "host")
            .filter(pk=vm.pk, observed__in=ON, idle_told_at__isnull=False)
            .first()
        )
        if row is None:
            return  # kept, or gone meanwhile
        first = not row.jobs.filter(kind=STOP, created_at__gte=row.idle_told_at).exists()
        job = job_services.enqueue(
            STOP, actor=None, vm=row, host=row.host, team=row.team, target_name=row.name
        )
        row.desired = VM.Desired.STOPPED
        row.save(update_fields=["desired"])
        audit.record(None, STOP, row, before={"state": row.observed}, job=job, team_id=row.team_id)
        if first:
            tell(row, "lease.idle_stopped", way=way_of(row))
        state.announce(row)
