"""The steps of ``vm.create``. Each is harmless when repeated; each undoes what it made.

A file proves nothing: a copy that was cut off passes ``qemu-img check``. So a volume that an
earlier attempt left, and whose step is not recorded as done, is deleted and made again.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import IO, TYPE_CHECKING, BinaryIO, TypeGuard, cast

from django.utils import timezone

from accounts import quotas
from accounts.errors import DomainError
from hosts import placement
from hosts.models import Host
from hosts.virt.errors import (
    AlreadyExists,
    DomainBusy,
    NoSuchDomain,
    WrongState,
)
from hosts.virt.spec import VolumeFacts, VolumeSpec
from jobs.registry import Park
from vms import answers, at_host, nvram, seeds, seriallog
from vms.knobs import knobs_of
from vms.models import VM, Disk, Image, ImageCopy
from vms.provisioning import installer
from vms.provisioning.batch import wait_for_turn
from vms.provisioning.domain import domain_spec
from vms.provisioning.request import distinct_domain_name

if TYPE_CHECKING:
    from hosts.models import Pool
    from hosts.virt.protocol import Hypervisor
    from jobs.context import JobContext

GIB = 1024**3
# Copies of machines: they lie where the machine was, and what is made of them is a clone.
ON_ONE_HOST = frozenset({Image.Source.TEMPLATE.value, Image.Source.BACKUP.value})
IMAGE_POLL_S = 2.0
BUSY_POLL_S = 3.0


def place(ctx: JobContext) -> None:
    """Choose the host and reserve its room; the choice stays when the step is repeated."""
    vm = at_host.machine(ctx)
    if vm.host is None:  # placing sets it
        disks, nics = list(vm.disks.all()), list(vm.nics.all())
        copy = _only_copy(vm.image)
        placement.choose(
            vcpus=vm.vcpus,
            memory_mib=vm.memory_mib,
            disk_bytes=sum(disk.size_gib for disk in disks) * GIB,
            network=nics[0].network,
            more_networks=[nic.network for nic in nics[1:]],
            needs=knobs_of(vm).needs(),
            image=vm.image,
            vm=vm,
            only=copy.pool.host if copy else None,
        )
        if copy is not None and copy.image.source == Image.Source.TEMPLATE:
            vm.disks.update(pool=copy.pool)  # beside what it stands on
    if vm.host is not None and ctx.job.host_id != vm.host.pk:
        ctx.set_host(vm.host)


def bring_image(ctx: JobContext) -> None:
    """Of a machine that is being made, with the discs of its other drives."""
    vm = at_host.machine(ctx)
    pool = _disk(vm).pool
    if pool is None:
        raise RuntimeError("a machine is placed before its image is brought")
    for disc in vm.extra_discs.select_related("image"):
        bring(ctx, disc.image, pool)
    if vm.image is None:
        return
    if _is_backup(vm.image):
        from vms.backups import steps as backups

        backups.compare_all(ctx, at_host.hypervisor(vm), vm.image.backup)
    else:
        bring(ctx, vm.image, pool)


def bring(ctx: JobContext, image: Image, pool: Pool) -> None:
    """Wait until the image is in the pool; whoever needs it first has it copied."""
    from vms.images import services as image_services

    now = timezone.now()
    asked = ctx.data.get("image_asked_at")
    asked_at = datetime.fromisoformat(asked) if asked else None
    copy = image_services.ensure_copy(image=image, pool=pool, actor=ctx.actor, asked_at=asked_at)
    if copy.state == ImageCopy.State.READY:
        return
    if asked_at is None:
        ctx.save_data(image_asked_at=now.isoformat())
    job = copy.job
    if copy.state == ImageCopy.State.FAILED:
        if job is not None and job.error_code:
            raise DomainError(job.error_code, **job.error_params)
        raise DomainError("vm.image_copy_failed", image=image.name, host=pool.host.name)
    ctx.progress(job.progress if job is not None else None)
    raise Park(IMAGE_POLL_S, waiting_for="image", stops_clock=True)


def make_disk(ctx: JobContext) -> None:
    """An overlay on the image's copy in the same pool, or an empty disk to install on: instant."""
    vm, disk, at = _subject(ctx)
    base = vm.image if vm.image and vm.image.kind == Image.Kind.DISK else None
    volume = replace(
        disk.spec,
        backing_volume=base.volume_name if base else None,
        backing_format=base.format if base else None,
    )
    afresh(at, volume, lambda: at.create_volume(volume))


def make_more_disks(ctx: JobContext) -> None:
    """Those beyond the first, or beyond those of the backup that it is made from: empty."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    full = len(vm.image.backup.files) if _is_backup(vm.image) else 1
    for disk in list(vm.disks.select_related("pool"))[full:]:
        spec = _DiskWork(disk).spec
        afresh(at, spec, partial(at.create_volume, spec))


def copy_disk(ctx: JobContext) -> None:
    """A full, independent copy of the image; of a backup, of each of its disks."""
    vm, disk, at = _subject(ctx)
    if vm.image is None:
        raise RuntimeError("a full copy needs an image")
    if _is_backup(vm.image):
        from vms.backups import steps as backups

        backups.fill_all(ctx, at, list(vm.disks.select_related("pool")), vm.image.backup)
        return
    source = vm.image.volume_name

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    made = afresh(
        at, disk.spec, lambda: at.clone_volume(disk.pool_name, source, disk.spec, progress)
    )
    if made.capacity_bytes < disk.spec.capacity_bytes:
        at.resize_volume(disk.pool_name, disk.spec.name, disk.spec.capacity_bytes)


def copy_nvram(ctx: JobContext) -> None:
    """Of the machine that its image is a copy of."""
    vm = at_host.machine(ctx)
    if vm.image is not None:
        nvram.give(vm.image, vm)


def delete_nvram(ctx: JobContext) -> None:
    nvram.remove(at_host.machine(ctx))


def delete_disk(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    for disk in vm.disks.select_related("pool"):
        if disk.pool is not None and vm.host is not None:
            at_host.hypervisor(vm).delete_volume(disk.pool.name, disk.volume)


def write_seed(ctx: JobContext) -> None:
    """The NoCloud disc, or the one with answers for an installer, as a raw volume beside the
    disk; for Debian's installer its kernel, and its initrd with the answers."""
    vm, disk, at = _subject(ctx)
    if vm.answers_kind == answers.PRESEED:
        with installer.parts(vm) as parts:
            _remember_seed(vm, installer.names(vm)[-1])
            for name, part in parts:
                _put(ctx, at, disk.pool_name, name, part)
        return
    name = f"kvmweb-{vm.uuid}-seed.iso"
    content = io.BytesIO(_answers(vm) if vm.answers_kind else _seed(vm))
    content.seek(0, io.SEEK_END)
    _remember_seed(vm, name)
    _put(ctx, at, disk.pool_name, name, content)


def _remember_seed(vm: VM, name: str) -> None:
    """Before the volume is there: whatever happens next, somebody knows its name."""
    VM.objects.filter(pk=vm.pk).update(seed_volume=name)


def _put(ctx: JobContext, at: Hypervisor, pool: str, name: str, content: IO[bytes]) -> None:
    """A raw volume with this content, which is at its end."""
    size = content.tell()
    content.seek(0)
    volume = VolumeSpec(pool=pool, name=name, capacity_bytes=size, format="raw")
    afresh(at, volume, lambda: at.create_volume(volume))
    source = cast("BinaryIO", content)
    at.upload_volume(pool, name, source, size, lambda _done, _all: ctx.checkpoint())


def _answers(vm: VM) -> bytes:
    return answers.build(vm.answers_kind, vm.answers, instance_id=str(vm.uuid))


def _seed(vm: VM) -> bytes:
    return seeds.build(
        seeds.Seed(
            instance_id=str(vm.uuid),
            hostname=vm.hostname,
            user=vm.first_user,
            ssh_keys=tuple(vm.ssh_keys),
            password_hash=vm.password_hash,
            user_data=vm.user_data,
            macs=tuple(nic.mac for nic in vm.nics.all()),
            shell=seeds.shell_for(vm.image.os_id if vm.image else ""),
            clone=vm.cloned_from_id is not None or _is_template(vm),
        )
    )


def delete_seed(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    remove_seed(vm)


def remove_seed(vm: VM) -> None:
    """Delete the seed's volume, or the installer's. Idempotent."""
    pool = _disk(vm).pool
    if pool is not None and vm.host is not None:
        for name in installer.seed_volumes(vm):
            at_host.hypervisor(vm).delete_volume(pool.name, name)
    VM.objects.filter(pk=vm.pk).update(seed_volume="")


def define(ctx: JobContext) -> None:
    """Define the domain. A stranger on the host may have the name: then ours gets a suffix."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    seriallog.make(vm)
    try:
        at.define(domain_spec(vm))
    except AlreadyExists:
        vm.domain_name = distinct_domain_name(vm.name)
        vm.save(update_fields=["domain_name"])
        at.define(domain_spec(vm))
    at_host.look(vm)


def undefine(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if vm.host is None:
        return
    at = at_host.hypervisor(vm)
    switch_off(at, vm)
    at.undefine(vm.uuid)
    nvram.remove(vm)
    seriallog.remove(vm)


def boot(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if vm.batch_id is not None and not at_host.is_on(vm):
        wait_for_turn(vm)
    power_on(at_host.hypervisor(vm), vm)
    quotas.activate(vm)


def stop(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if vm.host is not None:
        switch_off(at_host.hypervisor(vm), vm)


# --- shared with the power verbs and with delete -------------------------------------------------


def power_on(at: Hypervisor, vm: VM) -> None:
    """Start it; one that runs already is what was wanted."""
    arrange_screen(at, vm)
    try:
        at.start(vm.uuid)
    except WrongState:
        if not at_host.is_on(vm):
            raise
        return
    at_host.look(vm)


def arrange_screen(at: Hypervisor, vm: VM) -> None:
    """Where this site can reach it on that host, as far as that was found out."""
    if vm.host is not None and vm.host.transport == Host.Transport.SSH:
        at.arrange_display(vm.uuid, by_port=vm.host.screens == Host.Screens.PORT)


def switch_off(at: Hypervisor, vm: VM) -> None:
    """Like pulling the plug. A domain that is not there is off."""
    try:
        at.force_off(vm.uuid)
    except NoSuchDomain:
        return
    except WrongState:
        if at_host.is_on(vm):
            raise


def delete_volume(at: Hypervisor, pool: str, volume: str) -> None:
    """Parks while the host still writes it for an attempt that died, or cannot be reached."""
    try:
        at.delete_volume(pool, volume)
    except DomainBusy as error:
        raise Park(BUSY_POLL_S, waiting_for="volume") from error


# --- inside --------------------------------------------------------------------------------------


def _is_template(vm: VM) -> bool:
    return vm.image is not None and vm.image.source in ON_ONE_HOST


def _is_backup(image: Image | None) -> TypeGuard[Image]:
    return image is not None and image.source == Image.Source.BACKUP


def _only_copy(image: Image | None) -> ImageCopy | None:
    """The one copy of a template's version, on whose host its machines are made."""
    if image is None or image.source not in ON_ONE_HOST:
        return None
    copies = ImageCopy.objects.filter(image=image, state=ImageCopy.State.READY)
    row = copies.select_related("pool__host", "image").first()
    if row is None:
        raise DomainError("image.file_missing", name=image.name)
    return row


class _DiskWork:
    """A machine's first disk, as the volume to make."""

    def __init__(self, disk: Disk) -> None:
        if disk.pool is None:
            raise RuntimeError("a disk has a pool once its machine is placed")
        self.pool_name = disk.pool.name
        self.spec = VolumeSpec(
            pool=disk.pool.name,
            name=disk.volume,
            capacity_bytes=disk.size_gib * GIB,
            format=disk.format,
        )


def _subject(ctx: JobContext) -> tuple[VM, _DiskWork, Hypervisor]:
    vm = at_host.machine(ctx)
    return vm, _DiskWork(_disk(vm)), at_host.hypervisor(vm)


def _disk(vm: VM) -> Disk:
    return vm.disks.select_related("pool__host").order_by("id")[0]


def afresh(at: Hypervisor, volume: VolumeSpec, make: Callable[[], VolumeFacts]) -> VolumeFacts:
    """Make the volume where nothing is: what an attempt that died has left is not to be trusted."""
    delete_volume(at, volume.pool, volume.name)
    try:
        return make()
    except AlreadyExists:
        # Its file is there, but the host had not listed it yet.
        at.refresh_pool(volume.pool)
        delete_volume(at, volume.pool, volume.name)
        return make()
