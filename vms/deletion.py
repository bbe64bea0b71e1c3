"""The steps of ``vm.delete``: off, undefined, disks gone, and only then the quota is given back.

A host that cannot be reached is waited for, however long: the machine's page says so, and what it
takes still counts, because it is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from accounts import quotas
from accounts.models import Allocation
from hosts.virt.errors import HostUnreachable
from jobs.models import Job
from jobs.registry import Park
from vms import at_host, nvram, power, seriallog, state, timeline
from vms.backups import steps as backup_steps
from vms.models import VM, Nic, PublishedPort
from vms.provisioning import installer
from vms.provisioning.steps import delete_volume, switch_off
from vms.state import ON, RUNNING_RESOURCES

if TYPE_CHECKING:
    from jobs.context import JobContext

HOST_POLL_S = 15.0

StepFunction = Callable[["JobContext"], None]


def patiently(step: StepFunction) -> StepFunction:
    """A host that is away makes the step wait, not fail."""

    @wraps(step)
    def waiting(ctx: JobContext) -> None:
        try:
            step(ctx)
        except HostUnreachable as error:
            raise Park(HOST_POLL_S, waiting_for="host", stops_clock=True) from error

    return waiting


@patiently
def stop(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if vm.host is not None:
        switch_off(at_host.hypervisor(vm), vm)
        at_host.look(vm)


@patiently
def undefine(ctx: JobContext) -> None:
    """From here on nothing is undone: what is kept of it is there whatever happens."""
    if keeps_disk(ctx):
        with transaction.atomic():
            backup_steps.taken(Job.objects.select_related("actor").get(pk=ctx.job.pk))
    vm = at_host.machine(ctx)
    if vm.host is not None:
        at_host.hypervisor(vm).undefine(vm.uuid)


@patiently
def delete_volumes(ctx: JobContext) -> None:
    """Its disks, its seed, its NVRAM and its serial log. The image's copy, which other machines may
    stand on, stays."""
    vm = at_host.machine(ctx)
    if vm.host is None:
        return
    at = at_host.hypervisor(vm)
    pools = set()
    for disk in vm.disks.select_related("pool"):
        if disk.pool is not None:
            pools.add(disk.pool.name)
            delete_volume(at, disk.pool.name, disk.volume)
    for name in installer.seed_volumes(vm):
        for pool in pools:
            delete_volume(at, pool, name)
    VM.objects.filter(pk=vm.pk).update(seed_volume="")
    nvram.remove(vm)
    seriallog.remove(vm)


def keeps_disk(ctx: JobContext) -> bool:
    """Disks of it are kept as a backup before anything of it goes."""
    return "backup" in ctx.params


def succeeded(job: Job) -> None:
    vm = job.vm
    if vm is None:
        return
    if "backup" in job.params:
        backup_steps.taken(job)
    quotas.release(vm)
    Nic.objects.filter(vm=vm).update(addresses=[])
    PublishedPort.objects.filter(vm=vm).delete()
    VM.objects.filter(pk=vm.pk).update(
        deleted_at=timezone.now(), password_hash="", answers="", seed_volume="", fault_code=""
    )
    timeline.record(vm, "job.succeeded", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)


def failed(job: Job) -> None:
    """Something of it is still there, so it still counts; deleting again goes on where this
    ended."""
    vm = job.vm
    if vm is None:
        return
    if "backup" in job.params:
        backup_steps.forget_rows(job)
    vm.refresh_from_db()
    on = vm.observed in ON
    Allocation.objects.filter(vm=vm, state=Allocation.State.RELEASING).update(
        state=Allocation.State.ACTIVE
    )
    if not on:
        quotas.release(vm, RUNNING_RESOURCES)
    power.note_fault(vm, job)
    VM.objects.filter(pk=vm.pk).update(desired=VM.Desired.RUNNING if on else VM.Desired.STOPPED)
    timeline.record(vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)
