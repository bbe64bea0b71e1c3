"""A machine's row as libvirt's domain."""

from __future__ import annotations

from django.conf import settings

from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainMetadata,
    DomainSpec,
    NicSpec,
    SerialLogSpec,
)
from vms import seriallog
from vms.models import VM

ISO_TARGET = "sdb"
# Processors that can be plugged in while it runs: each costs the guest a little memory.
VCPUS_SPARE, VCPUS_MOST = 4, 64
SEED_TARGET = "sda"  # on virtio-scsi: Debian's cloud kernel has no AHCI driver


def domain_spec(vm: VM) -> DomainSpec:
    """All of it from the rows; the seed's CD-ROM only while the seed exists. A disc to install
    from boots before the disk."""
    disks = list(vm.disks.select_related("pool"))
    pool = disks[0].pool.name if disks and disks[0].pool else ""
    first = 2 if is_installing(vm) else 1
    return DomainSpec(
        uuid=vm.uuid,
        name=vm.domain_name,
        vcpus=vm.vcpus,
        vcpus_max=min(max(2 * vm.vcpus, VCPUS_SPARE), VCPUS_MOST),
        memory_mib=vm.memory_mib,
        disks=tuple(
            DiskSpec(
                pool=disk.pool.name if disk.pool else "",
                volume=disk.volume,
                target=disk.target,
                format=disk.format,
                boot_order=first if index == 0 else None,
            )
            for index, disk in enumerate(disks)
        ),
        nics=tuple(
            NicSpec(mac=nic.mac, network=nic.network, model=nic.model, link_up=nic.link_up)
            for nic in vm.nics.all()
        ),
        serial_log=SerialLogSpec(pool=pool, name=seriallog.name_of(vm)) if pool else None,
        cdroms=(*_seed(vm, pool), *_disc(vm, pool)),
        domain_type=vm.host.domain_type if vm.host else "qemu",
        arch=vm.image.arch if vm.image else "x86_64",
        firmware=vm.firmware,
        os_id=vm.image.os_id if vm.image else "",
        title=vm.name,
        metadata=DomainMetadata(
            vm_uuid=vm.uuid,
            name=vm.name,
            owner=vm.owner.username,
            team=vm.team.name,
            site=settings.SITE_MARK,
            image=vm.image.name if vm.image else "",
        ),
    )


def is_installing(vm: VM) -> bool:
    """From the disc in its drive, which then boots first."""
    return vm.iso_id is not None and not vm.iso_target


def _disc(vm: VM, pool: str) -> tuple[CdromSpec, ...]:
    if vm.iso is None:
        return ()
    return (
        CdromSpec(
            target=vm.iso_target or ISO_TARGET,
            pool=pool,
            volume=vm.iso.volume_name,
            boot_order=1 if is_installing(vm) else None,
        ),
    )


def _seed(vm: VM, pool: str) -> tuple[CdromSpec, ...]:
    if not vm.seed_volume:
        return ()
    return (CdromSpec(target=SEED_TARGET, pool=pool, volume=vm.seed_volume),)
