"""What was last seen of a machine. ``observe`` is the one place that writes it.

Whoever has just read a domain (the watcher after an event, a job's step after its work) passes
the facts on; when they say something new, the row, its timeline, the quota of running machines,
the pages and a job that waits for it all follow in one transaction.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import quotas
from accounts.models import Allocation, Resource
from hosts.virt.spec import DomainState
from jobs import live
from jobs import services as job_services
from jobs.models import Job
from vms import timeline
from vms.models import VM, Nic

if TYPE_CHECKING:
    from hosts.virt.spec import DomainFacts

ADMINS = "admins"
# Seen to be absent this often on a host that answers, a machine is missing.
TIMES_ABSENT = 2
# A job that has just ended is the cause of what its host tells a moment later.
JUST_ENDED = timedelta(seconds=5)
# QEMU tells of one reset twice.
ONE_REBOOT = timedelta(seconds=2)
# Several changes in a row are one line; whoever does it in a loop fills no table.
ONE_CHANGE = timedelta(seconds=30)
# The kinds of jobs at whose end there is a machine that was not there.
CREATIONS = ("vm.create", "vm.clone")
REBOOTED = "state.rebooted"
ON = frozenset({VM.Observed.RUNNING.value, VM.Observed.PAUSED.value})
OFF = frozenset({VM.Observed.SHUTOFF.value, VM.Observed.CRASHED.value})
RUNNING_RESOURCES = (
    Resource.RUNNING_MACHINES,
    Resource.RUNNING_VCPUS,
    Resource.RUNNING_MEMORY_MIB,
)
# libvirt's reasons of a domain that is off, but not because somebody wanted it.
_FAILURES = frozenset({"crashed", "failed"})
MAX_DOMAIN_NAME = 80  # of the column
_WRITTEN = (
    "domain_name",
    "desired",
    "observed",
    "observed_reason",
    "observed_at",
    "missing_count",
    "started_at",
    "fault_code",
    "fault_params",
    "fault_ref",
    "fault_at",
    "cpu_percent",
    "memory_used_mib",
    "vcpus",
    "memory_mib",
    "pending",
    "saved",
)
# What the fault of a state says while the state lasts.
_FAULTS = {VM.Observed.CRASHED.value: "vm.crashed", VM.Observed.MISSING.value: "vm.missing"}


def observe(vm: VM, facts: DomainFacts | None, reason: str = "") -> bool:
    """Notes what a host has told of ``vm`` (None: it has no such domain). True when it was news.

    ``reason`` overrides libvirt's word for why. ``vm`` is brought up to date. When it is not news
    nothing is written: callers may call as often as they read.
    """
    if not is_news(vm, facts):
        return False
    with transaction.atomic():
        row = VM.objects.select_for_update().get(pk=vm.pk)
        news = is_news(row, facts) and _apply(row, facts, reason)
    _copy_back(row, vm)
    return news


def announce(vm: VM) -> None:
    """Tell the pages of everybody who may see it, when the transaction is through."""
    live.publish_on_commit("vm", str(vm.uuid), groups=groups(vm))


def groups(vm: VM) -> list[str]:
    return sorted(live.machine_groups(vm.owner_id, vm.team_id, vm.uuid))


def observed_of(facts: DomainFacts, before: str) -> str:
    """The folded state. A domain whose QEMU died is "shut off" to libvirt, which also forgets why
    when it is restarted: crashed stays crashed until the machine is started or stopped again."""
    if facts.state is DomainState.SHUTOFF:
        if facts.reason in _FAILURES:
            return VM.Observed.CRASHED.value
        if before == VM.Observed.CRASHED and facts.reason == "unknown":
            return VM.Observed.CRASHED.value
    return VM.Observed(facts.state.value).value


def is_news(vm: VM, facts: DomainFacts | None) -> bool:
    """Whether ``observe`` would have something to write."""
    if vm.deleted_at is not None:
        return False
    if facts is None:
        # What was never seen cannot go missing: its domain is not defined yet.
        return vm.observed not in (VM.Observed.UNKNOWN, VM.Observed.MISSING)
    return (
        observed_of(facts, vm.observed) != vm.observed
        or vm.missing_count > 0
        or vm.saved != facts.saved
        or (vm.domain_name != facts.name and len(facts.name) <= MAX_DOMAIN_NAME)
    )


def _apply(row: VM, facts: DomainFacts | None, reason: str) -> bool:
    cause = _cause(row)
    before = row.observed
    if facts is None:
        if Job.objects.active().filter(vm=row, observing=False).exists():
            return False  # a job that removes or remakes it knows better
        row.missing_count += 1
        if row.missing_count < TIMES_ABSENT:
            row.save(update_fields=["missing_count"])
            return False
        row.observed, why = VM.Observed.MISSING.value, reason or "undefined"
    else:
        row.observed, why = observed_of(facts, before), reason or facts.reason
        row.missing_count = 0
        row.saved = facts.saved
        _follow_name(row, facts.name)
    if row.observed != before:
        row.observed_reason = why[:32]
        row.observed_at = timezone.now()
        _enter(row, before, cause)
        # Not in this transaction: the engine locks a job before its machine.
        transaction.on_commit(lambda: job_services.wake(vm_id=row.pk))
    row.save(update_fields=_WRITTEN)
    announce(row)
    return True


def _enter(row: VM, before: str, cause: Job | None) -> None:
    """What a change of state brings with it."""
    now = timezone.now()
    if row.observed in ON:
        if before not in ON:
            row.started_at = now
        count_running(row)
    else:
        row.started_at = row.cpu_percent = row.memory_used_mib = None
        # Its address may be another machine's tomorrow.
        Nic.objects.filter(vm=row).exclude(addresses=[]).update(addresses=[], addresses_at=now)
        if row.observed in OFF:
            _uncount_running(row)
    if row.observed in OFF or before in OFF:
        _apply_pending(row)
    if cause is None and row.desired != VM.Desired.DELETED and row.observed in ON | OFF:
        # Started or stopped by somebody else, or from inside: that is what is wanted now.
        row.desired = VM.Desired.RUNNING if row.observed in ON else VM.Desired.STOPPED
    _set_fault(row)
    if cause is not None and cause.kind in CREATIONS and row.observed != VM.Observed.RUNNING:
        return  # defined, started paused: steps of its making, not something that happened to it
    timeline.record(
        row,
        f"state.{row.observed}",
        actor=cause.actor if cause else None,
        job=cause,
        was=before,
        reason=row.observed_reason,
        outside=cause is None,
    )


def _apply_pending(row: VM) -> None:
    """What waited for the next start: what is stored on its host is what it is."""
    sizes = {name: row.pending[name] for name in ("vcpus", "memory_mib") if name in row.pending}
    row.pending = {}
    if not sizes:
        return
    for name, value in sizes.items():
        setattr(row, name, value)
    quotas.settle(row, {Resource.VCPUS: row.vcpus, Resource.MEMORY_MIB: row.memory_mib})
    timeline.record(row, "hardware.in_force", vcpus=row.vcpus, memory_mib=row.memory_mib)


def note_reboot(vm: VM) -> None:
    """The guest was reset without its QEMU ending: only the timeline and the pages hear of it."""
    with transaction.atomic():
        if vm.events.filter(kind=REBOOTED, at__gte=timezone.now() - ONE_REBOOT).exists():
            return
        cause = _cause(vm)
        timeline.record(
            vm,
            REBOOTED,
            actor=cause.actor if cause else None,
            job=cause,
            outside=cause is None,
        )
        announce(vm)
    job_services.wake(vm_id=vm.pk)


def note_outside(vm: VM, what: str) -> None:
    """Somebody has changed its definition or devices on its host: the timeline says so. Whatever
    comes while a job of ours is at work, or has just been, is that job's."""
    with transaction.atomic():
        if vm.observed == VM.Observed.UNKNOWN or _cause(vm) is not None:
            return
        if Job.objects.active().filter(vm=vm).exists():
            return
        kind = f"outside.{what}"
        if vm.events.filter(kind=kind, at__gte=timezone.now() - ONE_CHANGE).exists():
            return
        timeline.record(vm, kind)
        announce(vm)


def note_first_boot(vm: VM, *, failed: bool, excerpt: str) -> bool:
    """The guest says how its first boot went. Only the first word counts. True when it did."""
    outcome = VM.FirstBoot.FAILED if failed else VM.FirstBoot.DONE
    with transaction.atomic():
        pending = VM.objects.filter(pk=vm.pk, first_boot=VM.FirstBoot.PENDING)
        if not pending.update(first_boot=outcome, first_boot_excerpt=excerpt if failed else ""):
            return False
        timeline.record(vm, f"first_boot.{outcome.value}")
        announce(vm)
    job_services.wake(vm_id=vm.pk)
    return True


def _cause(vm: VM) -> Job | None:
    """The job that does it, or has just done it. One that only watches is no cause, but for a
    shutdown: all that it does after pressing the button is to wait for the guest."""
    jobs = vm.jobs.select_related("actor").order_by("-created_at")
    active = jobs.filter(state__in=Job.ACTIVE_STATES).first()
    if active is not None and (not active.observing or active.kind == "vm.shutdown"):
        return active
    return jobs.filter(
        state__in=Job.FINAL_STATES, finished_at__gte=timezone.now() - JUST_ENDED
    ).first()


def count_running(vm: VM) -> None:
    """Confirms what the start has held. A machine that was started outside takes what it takes,
    over the limit or not: usage says what is true, and blocks the next start."""
    quotas.count(vm, running_ask(vm.vcpus, vm.memory_mib))


def running_ask(vcpus: int, memory_mib: int) -> quotas.Ask:
    """What a machine takes only while it runs."""
    return {
        Resource.RUNNING_MACHINES: 1,
        Resource.RUNNING_VCPUS: vcpus,
        Resource.RUNNING_MEMORY_MIB: memory_mib,
    }


def _uncount_running(vm: VM) -> None:
    """Gives back, except what a job holds that is about to start it."""
    Allocation.objects.filter(vm=vm, resource__in=RUNNING_RESOURCES).exclude(
        state=Allocation.State.HELD
    ).delete()


def _set_fault(row: VM) -> None:
    code = _FAULTS.get(row.observed, "")
    if code:
        row.fault_code, row.fault_params, row.fault_ref = code, {}, ""
        row.fault_at = row.observed_at
    elif row.fault_code in _FAULTS.values():
        row.fault_code, row.fault_at = "", None


def _follow_name(row: VM, name: str) -> None:
    """``virsh domrename`` outside: keep the name that virsh lists, where it is free."""
    if row.domain_name == name:
        return
    try:
        with transaction.atomic():
            VM.objects.filter(pk=row.pk).update(domain_name=name)
    except IntegrityError:
        return
    row.domain_name = name


def _copy_back(row: VM, vm: VM) -> None:
    for name in _WRITTEN:
        setattr(vm, name, getattr(row, name))
