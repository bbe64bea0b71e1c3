"""A machine's disk gives way to another volume that a job makes beside it.

The job's params name the disk's ``target`` and the volume that it ``was``. The disk that is there
is never written: the new volume is made, the definition is pointed to it, and only then the old
one goes. Each step is harmless when repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accounts.errors import Conflict
from hosts.virt.spec import VolumeSpec
from vms import at_host
from vms.models import VM, Disk
from vms.provisioning.domain import domain_spec
from vms.provisioning.steps import GIB, afresh, delete_volume

if TYPE_CHECKING:
    from jobs.context import JobContext


def copy(ctx: JobContext, source: str) -> None:
    """The new volume: a full copy of ``source``, another in the same pool, standing on nothing. As
    large as the disk is now: it may have grown since ``source`` was taken."""
    vm, disk = at_host.machine(ctx), disk_of(ctx)
    at, pool = at_host.hypervisor(vm), _pool(disk)
    spec = VolumeSpec(
        pool=pool,
        name=new_name(ctx),
        capacity_bytes=max(at.volume(pool, source).capacity_bytes, disk.size_gib * GIB),
        format="qcow2",
    )

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    afresh(at, spec, lambda: at.clone_volume(pool, source, spec, progress))


def drop_new(ctx: JobContext) -> None:
    delete_volume(at_host.hypervisor(at_host.machine(ctx)), _pool(disk_of(ctx)), new_name(ctx))


def switch(ctx: JobContext) -> None:
    """The definition names the new volume from now on. Refused while it runs: somebody has started
    it by hand, and it writes the old one."""
    vm = at_host.machine(ctx)
    if at_host.is_on(vm):
        raise Conflict("vm.why.backup_on", name=vm.name)
    disk = disk_of(ctx)
    if disk.volume != new_name(ctx):
        ctx.save_data(base=disk.backing_image_id)
        Disk.objects.filter(pk=disk.pk).update(volume=new_name(ctx), backing_image=None)
    at_host.hypervisor(vm).define(domain_spec(vm))


def switch_back(ctx: JobContext) -> None:
    vm, disk = at_host.machine(ctx), disk_of(ctx)
    if disk.volume != ctx.params["was"]:
        base = ctx.data.get("base")
        Disk.objects.filter(pk=disk.pk).update(volume=ctx.params["was"], backing_image=base)
    at_host.hypervisor(vm).define(domain_spec(vm))


def remove_old(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    delete_volume(at_host.hypervisor(vm), _pool(disk_of(ctx)), ctx.params["was"])


def new_name(ctx: JobContext) -> str:
    vm = at_host.machine(ctx)
    return f"kvmweb-{vm.uuid}-{ctx.params['target']}-{ctx.job.pk.hex[:8]}.qcow2"


def disk_of(ctx: JobContext) -> Disk:
    vm: VM = at_host.machine(ctx)
    return vm.disks.select_related("pool").get(target=ctx.params["target"])


def _pool(disk: Disk) -> str:
    if disk.pool is None:
        raise RuntimeError("a machine that was made has its disks in a pool")
    return disk.pool.name
