"""What UEFI remembers of a machine (boot entries, keys): half a MiB in a file beside its disks.

libvirt makes it at the first start and unlinks it with the domain. In the pool's directory it can
be copied through the volume API: an installed system often boots by the entry that its installer
wrote there, so a clone without it would not find its disk's boot loader.
"""

from __future__ import annotations

from hosts.virt.errors import NoSuchVolume
from hosts.virt.spec import VolumeSpec
from vms import at_host
from vms.models import VM


def has(vm: VM) -> bool:
    return vm.firmware != "bios"


def name_of(vm: VM) -> str:
    return f"kvmweb-{vm.uuid}-nvram.fd"


def copy(source: VM, vm: VM) -> None:
    """To a clone that is not defined yet. A source that never ran has none, and one that was
    adopted has it elsewhere: then libvirt makes a fresh one. Idempotent; VirtError."""
    pool = _pool(source)
    if not has(source) or not pool:
        return
    at = at_host.hypervisor(source)
    at.refresh_pool(pool)
    try:
        facts = at.volume(pool, name_of(source))
    except NoSuchVolume:
        return
    spec = VolumeSpec(
        pool=pool, name=name_of(vm), capacity_bytes=facts.capacity_bytes, format="raw"
    )
    at.delete_volume(pool, spec.name)  # of an attempt that died: it may be half a copy
    at.clone_volume(pool, name_of(source), spec, lambda _done, _all: None)


def remove(vm: VM) -> None:
    """What undefining has left of it. Idempotent; VirtError."""
    pool = _pool(vm)
    if has(vm) and vm.host is not None and pool:
        at_host.hypervisor(vm).delete_volume(pool, name_of(vm))


def _pool(vm: VM) -> str:
    disk = vm.disks.select_related("pool").order_by("id").first()
    return disk.pool.name if disk is not None and disk.pool is not None else ""
