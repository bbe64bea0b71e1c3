"""A machine's row as libvirt's domain."""

from __future__ import annotations

from django.conf import settings

from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainMetadata,
    DomainSpec,
    NicSpec,
    NvramSpec,
    SerialLogSpec,
)
from vms import answers, nvram, osinfo, seriallog
from vms.knobs import Knobs, knobs_of
from vms.models import VM, Disk, Nic
from vms.provisioning import installer

ISO_TARGET = "sdb"
EXTRA_DISC_TARGETS = ("sdc", "sdd")
# Processors that can be plugged in while it runs: each costs the guest a little memory.
VCPUS_SPARE, VCPUS_MOST = 4, 64
SEED_TARGET = "sda"  # on virtio-scsi: Debian's cloud kernel has no AHCI driver


def domain_spec(vm: VM) -> DomainSpec:
    """All of it from the rows; the seed's CD-ROM only while the seed exists. A disc to install
    from boots before the disk, unless another order was chosen."""
    disks = list(vm.disks.select_related("pool"))
    pool = disks[0].pool.name if disks and disks[0].pool else ""
    knobs = knobs_of(vm)
    topology = _topology(vm, knobs)
    order = _boot_order(vm, disks)
    arch = vm.image.arch if vm.image else (vm.host.arch if vm.host else "") or "x86_64"
    return DomainSpec(
        uuid=vm.uuid,
        name=vm.domain_name,
        vcpus=vm.vcpus,
        # A layout leaves no room for more.
        vcpus_max=None if topology else min(max(2 * vm.vcpus, VCPUS_SPARE), VCPUS_MOST),
        memory_mib=vm.memory_mib,
        disks=tuple(_disk(disk, order.get(disk.target)) for disk in disks),
        nics=tuple(_nic(nic, order.get(nic.mac)) for nic in vm.nics.all()),
        serial_log=SerialLogSpec(pool=pool, name=seriallog.name_of(vm)) if pool else None,
        cdroms=(*_seed(vm, pool), *_discs(vm, pool, knobs, order)),
        domain_type=vm.host.domain_type if vm.host else "qemu",
        arch=arch,
        machine=knobs.machine,
        cpu_mode=knobs.cpu_mode or None,
        cpu_model=knobs.cpu_model,
        topology=topology,
        firmware=vm.firmware,
        nvram=NvramSpec(pool=pool, name=nvram.name_of(vm)) if pool and nvram.has(vm) else None,
        kernel=installer.spec(vm, pool),
        tpm=knobs.tpm,
        video=knobs.video,
        rng=knobs.rng,
        balloon=knobs.balloon,
        agent_channel=knobs.agent,
        watchdog=knobs.watchdog,
        clock=knobs.clock,
        hyperv=knobs.hyperv,
        os_id=_os_id(vm),
        title=vm.name,
        autostart=vm.autostart,
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


def _disk(disk: Disk, boot_order: int | None) -> DiskSpec:
    return DiskSpec(
        pool=disk.pool.name if disk.pool else "",
        volume=disk.volume,
        target=disk.target,
        format=disk.format,
        bus=disk.bus,
        cache=disk.cache or None,
        discard=disk.discard or None,
        io=disk.io or None,
        boot_order=boot_order,
    )


def _nic(nic: Nic, boot_order: int | None) -> NicSpec:
    return NicSpec(
        mac=nic.mac,
        network=nic.network,
        model=nic.model,
        link_up=nic.link_up,
        boot_order=boot_order,
    )


def _boot_order(vm: VM, disks: list[Disk]) -> dict[str, int]:
    """Name -> place, of what is there."""
    names = {disk.target for disk in disks} | {nic.mac for nic in vm.nics.all()}
    if vm.iso is not None:
        names.add(vm.iso_target or ISO_TARGET)
    usual = ([ISO_TARGET] if is_installing(vm) else []) + [disk.target for disk in disks[:1]]
    chosen = [name for name in vm.boot_order if name in names] or usual
    return {name: place for place, name in enumerate(chosen, start=1)}


def _topology(vm: VM, knobs: Knobs) -> tuple[int, int, int] | None:
    """None as well where its number of processors was changed since."""
    layout = (knobs.sockets, knobs.cores, knobs.threads)
    whole = knobs.sockets * knobs.cores * knobs.threads
    return layout if whole and whole == vm.vcpus else None


def _os_id(vm: VM) -> str:
    """What virt-manager reads: libosinfo's address of the system, where its database has it."""
    short_id = vm.os_id or (vm.image.os_id if vm.image else "")
    found = osinfo.find(short_id)
    return found.os.url if found is not None and found.exact else short_id


def _discs(vm: VM, pool: str, knobs: Knobs, order: dict[str, int]) -> tuple[CdromSpec, ...]:
    empty: tuple[CdromSpec, ...] = ()
    if knobs.drive and vm.iso is None:
        empty = (CdromSpec(target=ISO_TARGET, bus=knobs.disc_bus),)
    held = [(vm.iso_target or ISO_TARGET, vm.iso)] if vm.iso is not None else []
    held += [(disc.target, disc.image) for disc in vm.extra_discs.select_related("image")]
    return empty + tuple(
        CdromSpec(
            target=target,
            bus="scsi" if target == SEED_TARGET else knobs.disc_bus,
            pool=pool,
            volume=image.volume_name,
            boot_order=order.get(target),
        )
        for target, image in held
    )


def _seed(vm: VM, pool: str) -> tuple[CdromSpec, ...]:
    if not vm.seed_volume or vm.answers_kind == answers.PRESEED:
        return ()
    return (CdromSpec(target=SEED_TARGET, pool=pool, volume=vm.seed_volume),)
