"""Disks of a machine give way to other volumes that a job makes beside them.

The job's params name under ``disks`` each one's ``target``, the volume that it ``was`` ("": the
machine has no such disk any more, and gets it back) and its ``size_gib``; a job of one disk names
``target`` and ``was`` itself. The disks that are there are never written: the new volumes are made,
the definition is pointed to them, and only then the old ones go. Each step is harmless when
repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from accounts.errors import Conflict
from hosts.virt.spec import VolumeSpec
from vms import at_host
from vms.models import VM, Disk
from vms.provisioning.domain import domain_spec
from vms.provisioning.steps import GIB, afresh, delete_volume

if TYPE_CHECKING:
    from jobs.context import JobContext


@dataclass(frozen=True, kw_only=True)
class Swap:
    target: str
    was: str
    size_gib: int  # 0: as it was
    pool: str
    new: str


def copy(ctx: JobContext, sources: dict[str, tuple[str, str]]) -> None:
    """The new volumes, each a full copy of its target's source ``(pool, volume)``, standing on
    nothing."""
    vm = at_host.machine(ctx)
    at, swaps = at_host.hypervisor(vm), _swaps(ctx)

    def progress(index: int, done: int, total: int) -> None:
        ctx.progress((index + done / total) / len(swaps) if total else None)

    for index, swap in enumerate(swaps):
        pool, source = sources[swap.target]
        capacity = swap.size_gib * GIB or at.volume(pool, source).capacity_bytes
        spec = VolumeSpec(pool=swap.pool, name=swap.new, capacity_bytes=capacity, format="qcow2")
        beat = partial(progress, index)
        afresh(at, spec, partial(at.clone_volume, pool, source, spec, beat))


def copy_itself(ctx: JobContext) -> None:
    """As it is now."""
    copy(ctx, {swap.target: (swap.pool, swap.was) for swap in _swaps(ctx)})


def drop_new(ctx: JobContext) -> None:
    at = at_host.hypervisor(at_host.machine(ctx))
    for swap in _swaps(ctx):
        delete_volume(at, swap.pool, swap.new)


def switch(ctx: JobContext) -> None:
    """The definition names the new volumes from now on. Refused while it runs: somebody has started
    it by hand, and it writes the old ones."""
    vm = at_host.machine(ctx)
    if at_host.is_on(vm):
        raise Conflict("vm.why.backup_on", name=vm.name)
    swaps, rows = _swaps(ctx), {disk.target: disk for disk in vm.disks.all()}
    if not ctx.data.get("before"):
        before = {
            target: {"base": disk.backing_image_id, "size_gib": disk.size_gib}
            for target, disk in rows.items()
        }
        ctx.save_data(before=before)
    for swap in swaps:
        disk = rows.get(swap.target)
        if disk is None:
            _bring_back(vm, swap)
        elif disk.volume != swap.new:
            size = swap.size_gib or disk.size_gib
            Disk.objects.filter(pk=disk.pk).update(
                volume=swap.new, backing_image=None, size_gib=size
            )
    at_host.hypervisor(vm).define(domain_spec(vm))


def switch_back(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at, before = at_host.hypervisor(vm), ctx.data.get("before", {})
    for swap in _swaps(ctx):
        if not swap.was:
            at.detach_disk(vm.uuid, swap.target)
            vm.disks.filter(target=swap.target, volume=swap.new).delete()
        elif swap.target in before:
            kept = before[swap.target]
            vm.disks.filter(target=swap.target).update(
                volume=swap.was, backing_image=kept["base"], size_gib=kept["size_gib"]
            )
    at.define(domain_spec(vm))


def remove_old(ctx: JobContext) -> None:
    at = at_host.hypervisor(at_host.machine(ctx))
    for swap in _swaps(ctx):
        if swap.was:
            delete_volume(at, swap.pool, swap.was)


def disk_of(ctx: JobContext) -> Disk:
    """Of a job of one disk."""
    vm: VM = at_host.machine(ctx)
    return vm.disks.select_related("pool").get(target=ctx.params["target"])


# --- inside --------------------------------------------------------------------------------------


def _swaps(ctx: JobContext) -> list[Swap]:
    vm = at_host.machine(ctx)
    disks = list(vm.disks.select_related("pool"))
    pools = {disk.target: _pool(disk) for disk in disks}
    return [
        Swap(
            target=one["target"],
            was=one["was"],
            size_gib=one.get("size_gib", 0),
            pool=pools.get(one["target"]) or _pool(disks[0]),
            new=f"kvmweb-{vm.uuid}-{one['target']}-{ctx.job.pk.hex[:8]}.qcow2",
        )
        for one in ctx.params.get("disks", [ctx.params])
    ]


def _bring_back(vm: VM, swap: Swap) -> None:
    first = vm.disks.select_related("pool")[0]
    Disk.objects.create(
        vm=vm, pool=first.pool, volume=swap.new, target=swap.target, size_gib=swap.size_gib
    )


def _pool(disk: Disk) -> str:
    if disk.pool is None:
        raise RuntimeError("a machine that was made has its disks in a pool")
    return disk.pool.name
