"""What the jobs of settings do on the host, and what their end means for the rows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from accounts import quotas
from accounts.errors import DomainError
from accounts.models import Resource
from hosts.virt.errors import NoSuchDomain
from hosts.virt.spec import DiskSpec, NicSpec, VolumeSpec
from jobs.models import Job
from jobs.registry import Park
from vms import at_host, power, timeline
from vms.models import VM, Disk, Nic
from vms.power import GUEST_POLL_S, SHUTDOWN_PATIENCE
from vms.provisioning.steps import GIB, afresh, delete_volume
from vms.state import ON, RUNNING_RESOURCES, running_ask

if TYPE_CHECKING:
    from jobs.context import JobContext


# --- size, boot order, autostart -----------------------------------------------------------------


def resize(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    for name, change in (("vcpus", at.set_vcpus), ("memory_mib", at.set_memory)):
        live = change(vm.uuid, ctx.params[name])
        _note(vm, name, ctx.params[name], live=live)


def set_boot_order(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    devices = ctx.params["devices"]
    live = at_host.hypervisor(vm).set_boot_order(vm.uuid, devices)
    with transaction.atomic():
        row = VM.objects.select_for_update().get(pk=vm.pk)
        row.boot_order = devices
        row.pending = {key: kept for key, kept in row.pending.items() if key != "boot_order"}
        if not live and row.observed in ON:
            row.pending["boot_order"] = devices
        row.save(update_fields=["boot_order", "pending"])


def set_autostart(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    autostart = bool(ctx.params["autostart"])
    at_host.hypervisor(vm).set_autostart(vm.uuid, autostart=autostart)
    VM.objects.filter(pk=vm.pk).update(autostart=autostart)


@transaction.atomic
def _note(vm: VM, name: str, value: int, *, live: bool) -> None:
    """In force, or waiting for the next start."""
    row = VM.objects.select_for_update().get(pk=vm.pk)
    row.pending = {key: kept for key, kept in row.pending.items() if key != name}
    if live or row.observed not in ON:
        setattr(row, name, value)
    elif value != getattr(row, name):
        row.pending[name] = value
    row.save(update_fields=[name, "pending"])


# --- disks ---------------------------------------------------------------------------------------


def make_volume(ctx: JobContext) -> None:
    disk = _disk(ctx)
    at = at_host.hypervisor(at_host.machine(ctx))
    volume = VolumeSpec(
        pool=_pool(disk), name=disk.volume, capacity_bytes=disk.size_gib * GIB, format=disk.format
    )
    afresh(at, volume, lambda: at.create_volume(volume))


def drop_volume(ctx: JobContext) -> None:
    disk = _disk(ctx)
    delete_volume(at_host.hypervisor(at_host.machine(ctx)), _pool(disk), disk.volume)


def plug_disk(ctx: JobContext) -> None:
    vm, disk = at_host.machine(ctx), _disk(ctx)
    spec = DiskSpec(pool=_pool(disk), volume=disk.volume, target=disk.target, format=disk.format)
    at_host.hypervisor(vm).attach_disk(vm.uuid, spec)


def unplug_disk(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).detach_disk(vm.uuid, _disk(ctx).target)
    except NoSuchDomain:
        return


def grow_disk(ctx: JobContext) -> None:
    vm, disk = at_host.machine(ctx), _disk(ctx)
    at = at_host.hypervisor(vm)
    capacity = ctx.params["size_gib"] * GIB
    if at.volume(_pool(disk), disk.volume).capacity_bytes >= capacity:
        return  # by an attempt that died
    if at_host.is_on(vm):
        at.grow_disk(vm.uuid, disk.target, capacity)
    else:
        at.resize_volume(_pool(disk), disk.volume, capacity)


# --- network cards -------------------------------------------------------------------------------


def plug_nic(ctx: JobContext) -> None:
    vm, nic = at_host.machine(ctx), _nic(ctx)
    spec = NicSpec(mac=nic.mac, network=nic.network, model=nic.model, link_up=nic.link_up)
    at_host.hypervisor(vm).attach_nic(vm.uuid, spec)


def unplug_nic(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).detach_nic(vm.uuid, _nic(ctx).mac)
    except NoSuchDomain:
        return


def change_nic(ctx: JobContext) -> None:
    vm, nic = at_host.machine(ctx), _nic(ctx)
    network, link_up = ctx.params["network"], bool(ctx.params["link_up"])
    at_host.hypervisor(vm).change_nic(vm.uuid, nic.mac, network=network, link_up=link_up)
    moved = network != nic.network
    changes = {"network": network, "link_up": link_up} | ({"addresses": []} if moved else {})
    Nic.objects.filter(pk=nic.pk).update(**changes)


# --- shut down and start -------------------------------------------------------------------------


def wait_until_off(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if not at_host.is_on(vm):
        return
    asked_at = datetime.fromisoformat(ctx.data["asked_at"])
    if timezone.now() - asked_at > SHUTDOWN_PATIENCE:
        minutes = int(SHUTDOWN_PATIENCE.total_seconds() // 60)
        raise DomainError("vm.shutdown_ignored", minutes=minutes)
    raise Park(GUEST_POLL_S, waiting_for="guest")


# --- outcomes ------------------------------------------------------------------------------------


def succeeded(job: Job) -> None:
    _end(job)
    power.succeeded(job)
    if job.vm is not None and job.kind != "vm.restart":
        what = timeline.changes(job.params["before"], job.params["after"])
        timeline.record(job.vm, "hardware.changed", actor=job.actor, job=job, what=what)


def failed(job: Job) -> None:
    _end(job)
    power.failed(job)


def disk_added_not(job: Job) -> None:
    Disk.objects.filter(pk=job.params["disk"]).delete()
    failed(job)


def disk_grown(job: Job) -> None:
    Disk.objects.filter(pk=job.params["disk"]).update(size_gib=job.params["size_gib"])
    succeeded(job)


def disk_removed(job: Job) -> None:
    Disk.objects.filter(pk=job.params["disk"]).delete()
    succeeded(job)


def nic_added_not(job: Job) -> None:
    Nic.objects.filter(pk=job.params["nic"]).delete()
    failed(job)


def nic_removed(job: Job) -> None:
    Nic.objects.filter(pk=job.params["nic"]).delete()
    succeeded(job)


def _end(job: Job) -> None:
    if job.vm is not None:
        job.vm.refresh_from_db()
        settle(job.vm)


@transaction.atomic
def settle(vm: VM) -> None:
    """What it takes of the quota, by its rows: what was held for a change that did not come is
    given back. What waits for the next start counts already."""
    vcpus = max(vm.vcpus, vm.pending.get("vcpus", 0))
    memory_mib = max(vm.memory_mib, vm.pending.get("memory_mib", 0))
    disks = sum(vm.disks.values_list("size_gib", flat=True))
    quotas.settle(
        vm,
        {
            Resource.VCPUS: vcpus,
            Resource.MEMORY_MIB: memory_mib,
            Resource.DISK_GIB: disks,
        },
    )
    if vm.observed in ON:
        quotas.settle(vm, running_ask(vm.vcpus, vm.memory_mib))
    else:
        quotas.release(vm, RUNNING_RESOURCES)


# --- rows ----------------------------------------------------------------------------------------


def _disk(ctx: JobContext) -> Disk:
    return Disk.objects.select_related("pool").get(pk=ctx.params["disk"])


def _nic(ctx: JobContext) -> Nic:
    return Nic.objects.get(pk=ctx.params["nic"])


def _pool(disk: Disk) -> str:
    if disk.pool is None:
        raise RuntimeError("a disk that can be changed is in a pool")
    return disk.pool.name
