"""The recycle bin's job steps: a machine is put in, and taken out again as it was.

In the bin it is off and stays defined on its host, with its disks, NVRAM and snapshots: so a
restore is exact. What it takes of the quota is its disks; the rest is given back, and asked for
again at the restore. ``vms.recycle_bin`` has what people do with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from accounts import quotas
from accounts.models import Resource
from hosts.virt.errors import NoSuchDomain
from vms import at_host, power, state, timeline
from vms.deletion import patiently
from vms.models import VM, MachineRules, PublishedPort
from vms.provisioning.domain import domain_spec
from vms.provisioning.steps import switch_off

if TYPE_CHECKING:
    from jobs.context import JobContext
    from jobs.models import Job

# What is really there while it lies in the bin; all else is free for others.
KEPT = frozenset({Resource.DISK_GIB, Resource.SNAPSHOTS})
GIVEN_BACK = tuple(resource for resource in Resource if resource not in KEPT)


@patiently
def switch_off_machine(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    switch_off(at_host.hypervisor(vm), vm)
    at_host.look(vm)


@patiently
def hold(ctx: JobContext) -> None:
    """It must not come up again with its host; whether it did is kept for the restore."""
    vm = at_host.machine(ctx)
    facts = at_host.look(vm)
    if facts is None or not facts.autostart:
        return
    VM.objects.filter(pk=vm.pk).update(bin_autostart=True)
    at_host.hypervisor(vm).set_autostart(vm.uuid, autostart=False)


def let_go(ctx: JobContext) -> None:
    """Undo of ``hold``."""
    vm = at_host.machine(ctx)
    if vm.bin_autostart:
        at_host.hypervisor(vm).set_autostart(vm.uuid, autostart=True)
        VM.objects.filter(pk=vm.pk).update(bin_autostart=False)


def put_in(job: Job) -> None:
    """``on_success`` of ``vm.bin``."""
    vm = job.vm
    if vm is None:
        return
    now = timezone.now()
    until = now + timedelta(days=MachineRules.current().bin_days)
    quotas.release(vm, GIVEN_BACK)
    PublishedPort.objects.filter(vm=vm).delete()
    VM.objects.filter(pk=vm.pk).update(
        binned_at=now,
        bin_until=until,
        desired=VM.Desired.STOPPED,
        fault_code="",
        fault_params={},
        fault_ref="",
        fault_at=None,
    )
    timeline.record(vm, "binned", actor=job.actor, job=job, until=until.isoformat())
    state.announce(vm)


def not_put_in(job: Job) -> None:
    """It stays where it was, off if it was switched off already."""
    power.failed(job)


@patiently
def look_whole(ctx: JobContext) -> None:
    """All its disks must be there still: somebody may have removed one on the host."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    for disk in vm.disks.select_related("pool"):
        if disk.pool is not None:
            at.volume(disk.pool.name, disk.volume)


@patiently
def bring_back(ctx: JobContext) -> None:
    """As it was; defined again where somebody has undefined it on the host meanwhile."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    try:
        at.domain(vm.uuid)
    except NoSuchDomain:
        at.define(domain_spec(vm))
    if vm.bin_autostart:
        at.set_autostart(vm.uuid, autostart=True)
    at_host.look(vm)


def taken_out(job: Job) -> None:
    """``on_success`` of ``vm.take_back``."""
    vm = job.vm
    if vm is None:
        return
    quotas.activate(vm)
    VM.objects.filter(pk=vm.pk).update(
        binned_at=None, bin_until=None, bin_autostart=False, fault_code="", fault_at=None
    )
    # One whose time is over gets as long again until it comes back here.
    VM.objects.filter(pk=vm.pk, lease_over_at__isnull=False).update(lease_over_at=timezone.now())
    timeline.record(vm, "taken_back", actor=job.actor, job=job)
    state.announce(vm)


def not_taken_out(job: Job) -> None:
    """It stays in the bin for as long as it was to stay there."""
    vm = job.vm
    if vm is None:
        return
    quotas.release(vm, GIVEN_BACK)
    power.note_fault(vm, job)
    timeline.record(vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)
