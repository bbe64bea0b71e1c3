"""What people do with deleted machines: look at them, restore them, delete them for good.

``vms.binning`` has the jobs' steps. A machine's name is free for others while it lies in the bin.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError, Invalid
from accounts.models import Resource
from accounts.policy import Action
from jobs import reconcile
from jobs import services as job_services
from vms import names, queries, state, timeline
from vms.backups import services as backups
from vms.models import VM, Disk, MachineRules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from accounts.models import User
    from jobs.models import Job

log = logging.getLogger(__name__)

DAYS_MIN, DAYS_MAX = 1, 365
# A purge that failed is tried again after this.
AGAIN_AFTER = timedelta(hours=1)
PURGES_AT_ONCE = 20


def rows(user: User) -> QuerySet[VM, VM]:
    """The deleted machines that ``user`` may see, those that go first at the top."""
    return queries.with_related(VM.objects.visible_to(user).in_bin().order_by("bin_until", "pk"))


def deletable(user: User) -> list[VM]:
    """Those among them that ``user`` may restore and delete for good."""
    door = policy.door(user)
    return [vm for vm in rows(user) if door.can(Action.DELETE, vm)]


def disks_gib(user: User) -> int:
    """What the disks of all of them take together."""
    seen = Disk.objects.filter(vm__in=VM.objects.visible_to(user).in_bin())
    return seen.aggregate(total=Sum("size_gib"))["total"] or 0


def restore(vm: VM, *, actor: User, name: str = "") -> Job:
    """Out of the bin, off, as it was. ``name`` where its own was taken meanwhile.

    Raises NotFound, Forbidden, Conflict (``vm.bin.not_in``), Invalid (the name), QuotaExceeded,
    Busy."""
    policy.require(actor, Action.DELETE, vm)
    wanted = name or vm.name
    names.validate_name(wanted)
    with transaction.atomic():
        team = quotas.lock_team(vm.team_id)
        row = _locked(vm)
        if VM.objects.in_use().filter(team=team, name=wanted).exists():
            raise Invalid("vm.bin.name_taken", fields={"name": "vm.bin.name_taken"}, name=wanted)
        quotas.release(row, [*restore_ask(row)])  # what an attempt that was lost may have left
        quotas.allocate(row, restore_ask(row))
        before = row.name
        if wanted != row.name:
            row.name = wanted
            row.save(update_fields=["name"])
        job = job_services.enqueue("vm.take_back", actor=actor, vm=row, target_name=row.name)
        audit.record(
            actor,
            "vm.take_back",
            row,
            before={"name": before},
            after={"name": row.name},
            job=job,
            team_id=team.pk,
        )
        timeline.record(row, "asked", actor=actor, job=job, task=job.kind)
        state.announce(row)
    return job


def purge(vm: VM, *, actor: User | None, keep: Iterable[str] = ()) -> Job:
    """Delete for good what lies in the bin. ``actor`` None: its time is over. ``keep``: these of
    its disks become a backup first, which outlives it.

    Raises NotFound, Forbidden, Conflict (``vm.bin.not_in``, ``vm.why.*``), Busy, QuotaExceeded."""
    if actor is not None:
        policy.require(actor, Action.DELETE, vm)
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = _locked(vm)
        kept = backups.write_last(row, keep, actor=actor) if actor else {}
        quotas.releasing(row)
        job = job_services.enqueue(
            "vm.delete", actor=actor, vm=row, target_name=row.name, params=kept
        )
        row.desired = VM.Desired.DELETED
        row.save(update_fields=["desired"])
        audit.record(actor, "vm.delete", row, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=job.kind)
        state.announce(row)
    return job


def purge_all(user: User) -> tuple[int, int]:
    """Of the bin that ``user`` sees, each that they may delete: (begun, left as they are)."""
    done = left = 0
    for vm in deletable(user):
        try:
            purge(vm, actor=user)
        except DomainError:  # noqa: PERF203 - each for itself
            left += 1
        else:
            done += 1
    return done, left


def restore_ask(vm: VM) -> quotas.Ask:
    """What its restore takes of the quota: its disks are counted already."""
    return {
        Resource.MACHINES: 1,
        Resource.VCPUS: vm.vcpus,
        Resource.MEMORY_MIB: vm.memory_mib,
    }


def set_days(days: int, *, actor: User) -> None:
    """How long machines that are deleted from now on are kept."""
    policy.require(actor, Action.SITE_ADMIN)
    if not DAYS_MIN <= days <= DAYS_MAX:
        raise Invalid(
            "vm.bin.days", fields={"days": "vm.bin.days"}, minimum=DAYS_MIN, maximum=DAYS_MAX
        )
    with transaction.atomic():
        rules = MachineRules.locked()
        before, rules.bin_days = rules.bin_days, days
        rules.save(update_fields=["bin_days"])
        audit.record(actor, "site.bin_days", before={"days": before}, after={"days": days})


def purge_what_is_due() -> None:
    """Called by the reconciler. One that fails is left for an hour, not for ever."""
    now = timezone.now()
    for vm in VM.objects.in_bin().filter(bin_until__lte=now)[:PURGES_AT_ONCE]:
        if job_services.active_job(vm) is not None:
            continue
        VM.objects.filter(pk=vm.pk).update(bin_until=now + AGAIN_AFTER)
        try:
            purge(vm, actor=None)
        except DomainError as error:
            log.warning("%s stays in the recycle bin: %s", vm.uuid, error.code)


def register() -> None:
    reconcile.register_reconciler(purge_what_is_due)


def _locked(vm: VM) -> VM:
    row = VM.objects.in_bin().select_for_update().filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.bin.not_in", name=vm.name)
    return row
