"""The steps of ``vm.clone`` that read the source. The rest are those of ``vm.create``.

``ctx.job.vm`` is the clone. The source stays as it is meanwhile: ``vm.lend`` is its active job.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from accounts.errors import Conflict
from hosts import placement
from hosts.virt.errors import NoSuchDomain
from hosts.virt.spec import DiskCopy, SnapshotSpec, VolumeSpec
from jobs import services as job_services
from vms import at_host, nvram
from vms.knobs import knobs_of
from vms.models import VM, Disk
from vms.provisioning.steps import GIB, afresh, delete_disk

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor, Progress
    from jobs.context import JobContext


def place(ctx: JobContext) -> None:
    """On the source's host, in the pools of its disks: nothing goes over a network."""
    vm, source = at_host.machine(ctx), _source(ctx)
    if vm.host is None:
        placement.choose(
            vcpus=vm.vcpus,
            memory_mib=vm.memory_mib,
            disk_bytes=sum(disk.size_gib for disk in vm.disks.all()) * GIB,
            network=next((nic.network for nic in vm.nics.all()), ""),
            needs=knobs_of(vm).needs(),
            vm=vm,
            only=source.host,
        )
    for disk, theirs in _pairs(vm, source):
        Disk.objects.filter(pk=disk.pk).update(pool=theirs.pool)
    if vm.host is not None and ctx.job.host_id != vm.host.pk:
        ctx.set_host(vm.host)


# --- a snapshot of the source: there and back ----------------------------------------------------


def of_snapshot(ctx: JobContext) -> bool:
    return bool(ctx.params["snapshot"])


def rewind(ctx: JobContext) -> None:
    """Keep the source as it is under a name of ours, then let its disks be those of the snapshot:
    libvirt copies a disk only as it is now."""
    source = _source(ctx)
    at = at_host.hypervisor(source)
    if _kept(at, source, ctx) is None:
        if at_host.is_on(source):
            raise Conflict("vm.why.clone_snapshot_on", name=source.name)
        disks = tuple(disk.target for disk in source.disks.all())
        at.create_snapshot(source.uuid, SnapshotSpec(name=_keep(ctx), disks=disks), _beat(ctx))
    at.revert_snapshot(source.uuid, ctx.params["snapshot"], _beat(ctx), paused=True)
    at.force_off(source.uuid)  # one with memory has begun to run


def wind_back(ctx: JobContext) -> None:
    """The source as it was. Idempotent."""
    source = _source(ctx)
    at = at_host.hypervisor(source)
    try:
        if _kept(at, source, ctx) is None:
            return
        at.force_off(source.uuid)
        at.revert_snapshot(source.uuid, _keep(ctx), _beat(ctx))
        at.delete_snapshot(source.uuid, _keep(ctx), _beat(ctx))
        at_host.look(source)
    except NoSuchDomain:
        return  # somebody removed it by hand: nothing is left to bring back


# --- the copy ------------------------------------------------------------------------------------


def copy_disks(ctx: JobContext) -> None:
    vm, source = at_host.machine(ctx), _source(ctx)
    at = at_host.hypervisor(vm)
    pairs = _pairs(vm, source)
    if at_host.is_on(source):
        _copy_running(ctx, at, source, pairs)
    else:
        for index, (disk, theirs) in enumerate(pairs):
            _copy_stopped(ctx, at, disk, theirs, before=index / len(pairs), share=1 / len(pairs))
    nvram.copy(source, vm)


def drop_copies(ctx: JobContext) -> None:
    source = _source(ctx)
    with suppress(NoSuchDomain):
        at_host.hypervisor(source).stop_copies(source.uuid)
    delete_disk(ctx)
    nvram.remove(at_host.machine(ctx))


def give_back(ctx: JobContext) -> None:
    """The source may be used again."""
    ctx.save_data(copied=True)
    job_services.wake(vm_id=_source(ctx).pk)


def _copy_running(
    ctx: JobContext, at: Hypervisor, source: VM, pairs: list[tuple[Disk, Disk]]
) -> None:
    at.stop_copies(source.uuid)  # of an attempt that died: they write these volumes
    copies = []
    for disk, theirs in pairs:
        spec = _volume(disk, theirs, at)
        afresh(at, spec, partial(at.create_volume, spec))
        copies.append(
            DiskCopy(
                target=disk.target,
                pool=spec.pool,
                volume=spec.name,
                shallow=spec.backing_volume is not None,
            )
        )

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    at.copy_running(source.uuid, copies, progress)


def _copy_stopped(
    ctx: JobContext, at: Hypervisor, disk: Disk, theirs: Disk, *, before: float, share: float
) -> None:
    spec = _volume(disk, theirs, at)

    def progress(done: int, total: int) -> None:
        ctx.progress(before + share * done / total if total else None)

    afresh(at, spec, lambda: at.clone_volume(spec.pool, theirs.volume, spec, progress))


def _volume(disk: Disk, theirs: Disk, at: Hypervisor) -> VolumeSpec:
    if theirs.pool is None:
        raise RuntimeError("a machine that can be cloned has its disks in a pool")
    image = disk.backing_image
    return VolumeSpec(
        pool=theirs.pool.name,
        name=disk.volume,
        capacity_bytes=at.volume(theirs.pool.name, theirs.volume).capacity_bytes,
        format="qcow2",
        backing_volume=image.volume_name if image else None,
        backing_format=image.format if image else None,
    )


# --- inside --------------------------------------------------------------------------------------


def _source(ctx: JobContext) -> VM:
    return VM.objects.select_related("host", "image", "team", "owner").get(pk=ctx.params["source"])


def _pairs(vm: VM, source: VM) -> list[tuple[Disk, Disk]]:
    """(the clone's disk, the source's)."""
    theirs = {disk.target: disk for disk in source.disks.select_related("pool")}
    ours = vm.disks.select_related("pool", "backing_image")
    return [(disk, theirs[disk.target]) for disk in ours]


def _keep(ctx: JobContext) -> str:
    return f"kvmweb-clone-{ctx.job.pk}"


def _kept(at: Hypervisor, source: VM, ctx: JobContext) -> str | None:
    names = {facts.name for facts in at.snapshots(source.uuid)}
    return _keep(ctx) if _keep(ctx) in names else None


def _beat(ctx: JobContext) -> Progress:
    return lambda _done, _all: ctx.checkpoint()
