"""Whether a machine can move now, and which hosts can take it. Reads the database only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hosts import placement
from hosts.inventory import FILE_POOLS
from hosts.placement import Move, Place
from vms.hardware import rules
from vms.knobs import knobs_of
from vms.models import VM, Disk, Image
from vms.provisioning.steps import GIB, ON_ONE_HOST
from vms.state import ON

if TYPE_CHECKING:
    from jobs.models import Job


def why_not(vm: VM, active: Job | None) -> str | None:
    """The code of why it can go nowhere now."""
    if code := rules.why_not(vm, active):
        return code
    if vm.host is None:
        return "vm.why.unknown"
    if vm.observed == VM.Observed.PAUSED:
        return "vm.why.paused"
    if vm.seed_volume:
        return "vm.why.first_boot"
    if vm.snapshots.exists():
        return "vm.why.has_snapshots"
    if vm.backups.exists():
        return "vm.why.move_backups"
    if any(image.source in ON_ONE_HOST for image in images(vm)):
        return "vm.why.move_template"
    if any(disk.pool is None or disk.pool.kind not in FILE_POOLS for disk in _disks(vm)):
        return "vm.why.move_pool"
    if knobs_of(vm).tpm and vm.observed not in ON:
        return "vm.why.move_tpm"
    return None


def images(vm: VM) -> list[Image]:
    """That it stands on, or has in a drive: they must be on its host."""
    found = [disk.backing_image for disk in _disks(vm)]
    found += [vm.iso, *(disc.image for disc in vm.extra_discs.select_related("image"))]
    return list(dict.fromkeys(image for image in found if image is not None))


def copied_bytes(vm: VM) -> int:
    """What goes over the network of its disks, as far as it is known."""
    return sum(disk.allocation_bytes or 0 for disk in vm.disks.all())


def of(vm: VM, *, lock: bool = False) -> list[Place]:
    """All hosts but its own. ``lock``: see ``hosts.placement.places_for``."""
    if vm.host is None:
        return []
    move = Move(
        source=vm.host,
        live=vm.observed in ON,
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        disk_bytes=sum(disk.size_gib for disk in vm.disks.all()) * GIB,
        copy_bytes=copied_bytes(vm),
        networks=frozenset(nic.network for nic in vm.nics.all()) - {""},
        needs=knobs_of(vm).needs(),
        images=tuple(images(vm)),
    )
    return placement.places_for(move, lock=lock)


def _disks(vm: VM) -> list[Disk]:
    return list(vm.disks.select_related("pool", "backing_image"))
