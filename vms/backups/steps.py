"""What the jobs of backups do on the host, and what their end means for the rows."""

from __future__ import annotations

import hashlib
import io
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

from django.utils import timezone

from accounts import quotas
from accounts.errors import Conflict, DomainError
from hosts.virt.errors import NoSuchDomain, NoSuchVolume, Unsupported
from hosts.virt.spec import DiskCopy, VolumeSpec
from jobs.models import Job
from vms import at_host, nvram, power, replacing, state, timeline
from vms.backups import schedule, services
from vms.guest import freezing
from vms.hardware import steps as hardware_steps
from vms.models import VM, Backup, Disk, Image, ImageCopy
from vms.provisioning.steps import GIB, afresh, delete_volume

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import VolumeFacts
    from jobs.context import JobContext


log = logging.getLogger(__name__)

Share = tuple[int, int]  # which of how many files: for the progress of all together
WHOLE: Share = (0, 1)


class _Sum(io.RawIOBase):
    """A file that keeps nothing but the checksum of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self.length = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False  # so holes come as the zeros that they are

    def write(self, data: object) -> int:
        content = bytes(cast("bytes", data))
        self.hash.update(content)
        self.length += len(content)
        return len(content)


def read(
    ctx: JobContext, at: Hypervisor, pool: str, volume: str, *, share: Share = WHOLE
) -> tuple[str, int]:
    """SHA-256 and length of the volume's file."""
    target = _Sum()
    beat = partial(_progress, ctx, share)
    at.download_volume(pool, volume, cast("BinaryIO", target), beat)
    return target.hash.hexdigest(), target.length


# --- vm.backup -----------------------------------------------------------------------------------


def copy(ctx: JobContext) -> None:
    """All of the disks, standing on nothing. A running guest goes on: its disks are copied as they
    are at one moment, the beginning by libvirt's backup, where its file systems stand still if it
    has an agent; the end where the host has no such backup."""
    vm, backup = at_host.machine(ctx), _backup(ctx)
    at = at_host.hypervisor(vm)
    if backup.has_system:
        ctx.save_data(nvram=nvram.keep(vm, backup.image, _pool_of(backup.image)))
    works = [(disk, _volume(at, disk, image)) for disk, image in _pairs(vm, backup)]
    if not at_host.is_on(vm):
        for index, (disk, spec) in enumerate(works):
            afresh(at, spec, partial(_clone, ctx, at, disk, spec, (index, len(works))))
        return

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    at.stop_copies(vm.uuid)  # of an attempt that died: they write these volumes
    for _disk, spec in works:
        afresh(at, spec, partial(at.create_volume, spec))
    copies = [
        DiskCopy(target=disk.target, pool=spec.pool, volume=spec.name) for disk, spec in works
    ]
    try:
        with freezing.frozen(ctx) as stood_still:
            at.begin_backup(vm.uuid, copies)
    except Unsupported as error:
        log.info("%s is backed up by block copy: %s", vm.uuid, error.raw)
        at.copy_running(vm.uuid, copies, progress)
    else:
        ctx.save_data(stood_still=stood_still)
        at.finish_backup(vm.uuid, progress)


def add_up(ctx: JobContext) -> None:
    """The checksums that a restore compares."""
    freezing.thaw(ctx)
    vm, backup = at_host.machine(ctx), _backup(ctx)
    at, files = at_host.hypervisor(vm), backup.files
    sums = {}
    for index, (target, image) in enumerate(files):
        share = (index, len(files))
        sums[target] = read(ctx, at, _pool_of(image), image.volume_name, share=share)
    ctx.save_data(sums=sums)


def drop(ctx: JobContext) -> None:
    freezing.thaw(ctx)
    vm = at_host.machine(ctx)
    backup = _rows().filter(pk=ctx.params["backup"]).first()
    if backup is None or backup.image.state == Image.State.READY:
        return
    at = at_host.hypervisor(vm)
    with suppress(NoSuchDomain):
        if at_host.is_on(vm):
            at.stop_copies(vm.uuid)
    for _target, image in backup.files:
        delete_volume(at, _pool_of(image), image.volume_name)
        nvram.drop(at, image, _pool_of(image))


def taken(job: Job) -> None:
    """Idempotent: a deletion that keeps the disk says so before anything else goes."""
    backup = _rows().filter(pk=job.params["backup"]).first()
    if backup is None or backup.image.state == Image.State.READY:
        return
    for target, image in backup.files:
        checksum, size = job.data["sums"][target]
        ImageCopy.objects.filter(image=image).update(
            state=ImageCopy.State.READY, copied_at=timezone.now()
        )
        Image.objects.filter(pk=image.pk).update(
            state=Image.State.READY,
            checksum=checksum,
            checksum_algorithm="sha256",
            file_size_bytes=size,
        )
    kept = nvram.columns(job.data.get("nvram"))
    Image.objects.filter(pk=backup.image_id).update(**kept)
    Backup.objects.filter(pk=backup.pk).update(frozen=job.data.get("stood_still", False))
    quotas.activate_subject(services.subject(backup))
    timeline.record(backup.vm, "backup.taken", actor=job.actor, job=job, number=backup.number)
    services.forget_old(backup.vm)
    state.announce(backup.vm)


def not_taken(job: Job) -> None:
    forget_rows(job)
    if job.vm is not None:
        timeline.record(job.vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
        schedule.failed(job.vm, job)
        state.announce(job.vm)


def forget_rows(job: Job) -> None:
    """Of the backup that the job did not take."""
    backup = _rows().filter(pk=job.params["backup"]).first()
    if backup is None or backup.image.state == Image.State.READY:
        return
    for _target, image in backup.files:
        services.forget(image)
        image.copies.all().delete()
        image.delete()


# --- vm.restore_backup ---------------------------------------------------------------------------


def verify(ctx: JobContext) -> None:
    vm, backup = at_host.machine(ctx), _backup(ctx)
    if at_host.is_on(vm):
        raise Conflict("vm.why.backup_on", name=vm.name)
    compare_all(ctx, at_host.hypervisor(vm), backup)


def compare_all(ctx: JobContext, at: Hypervisor, backup: Backup) -> None:
    """Raise unless each of the backup's files is what was written."""
    files = backup.files
    for index, (_target, image) in enumerate(files):
        compare(ctx, at, image, share=(index, len(files)))
        nvram.compare(at, image)


def compare(ctx: JobContext, at: Hypervisor, image: Image, *, share: Share = WHOLE) -> None:
    """Raise unless the file is what was written."""
    found = image.copies.select_related("pool").filter(state=ImageCopy.State.READY).first()
    if found is None:
        raise DomainError("image.file_missing", name=image.name)
    try:
        checksum, _size = read(ctx, at, found.pool.name, image.volume_name, share=share)
    except NoSuchVolume as error:
        raise DomainError("backup.file_missing") from error
    if checksum != image.checksum:
        raise DomainError("backup.damaged")


def copy_back(ctx: JobContext) -> None:
    replacing.copy(
        ctx, {target: (_pool_of(image), image.volume_name) for target, image in _backup(ctx).files}
    )


def brings_nvram(ctx: JobContext) -> bool:
    return bool(ctx.params.get("nvram"))


def put_nvram(ctx: JobContext) -> None:
    """The firmware's variables as they were with those disks; those of now are set aside."""
    vm = at_host.machine(ctx)
    if "nvram_had" not in ctx.data:
        ctx.save_data(nvram_had=nvram.set_aside(vm, ctx.job.pk.hex))
    nvram.put(vm, nvram.place_of(_backup(ctx).image))


def put_nvram_back(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if "nvram_had" in ctx.data:
        nvram.put_back(vm, ctx.job.pk.hex, had=ctx.data["nvram_had"])
    nvram.forget(vm, ctx.job.pk.hex)


def remove_old(ctx: JobContext) -> None:
    replacing.remove_old(ctx)
    if brings_nvram(ctx):
        nvram.forget(at_host.machine(ctx), ctx.job.pk.hex)


def restored(job: Job) -> None:
    backup = Backup.objects.filter(pk=job.params["backup"]).first()
    if job.vm is not None and backup is not None:
        timeline.record(job.vm, "backup.restored", actor=job.actor, job=job, number=backup.number)
    power.succeeded(job)


def not_restored(job: Job) -> None:
    """What was held for disks that did not come back, or not larger, is given back."""
    if job.vm is not None:
        job.vm.refresh_from_db()
        hardware_steps.settle(job.vm)
    power.failed(job)


# --- vm.disk_from_backup -------------------------------------------------------------------------


def verify_disk(ctx: JobContext) -> None:
    image = _image(ctx)
    compare(ctx, at_host.hypervisor(at_host.machine(ctx)), image)


def copy_to_disk(ctx: JobContext) -> None:
    """A disk of the backup as a further disk of a machine."""
    image = _image(ctx)
    disk = Disk.objects.select_related("pool").get(pk=ctx.params["disk"])
    fill(ctx, at_host.hypervisor(at_host.machine(ctx)), disk, image)


def fill(
    ctx: JobContext, at: Hypervisor, disk: Disk, image: Image, *, share: Share = WHOLE
) -> None:
    """The disk's volume as a full copy of the backup's file."""
    spec = VolumeSpec(
        pool=_name(disk),
        name=disk.volume,
        capacity_bytes=disk.size_gib * GIB,
        format="qcow2",
    )
    source = _pool_of(image)
    beat = partial(_progress, ctx, share)
    afresh(at, spec, lambda: at.clone_volume(source, image.volume_name, spec, beat))


def fill_all(ctx: JobContext, at: Hypervisor, disks: list[Disk], backup: Backup) -> None:
    """A new machine's disks, in the order of the backup's."""
    images = [image for _target, image in backup.files]
    for index, (disk, image) in enumerate(zip(disks, images, strict=False)):
        fill(ctx, at, disk, image, share=(index, len(images)))


# --- inside --------------------------------------------------------------------------------------


def _progress(ctx: JobContext, share: Share, done: int, total: int) -> None:
    before, parts = share
    ctx.progress((before + done / total) / parts if total else None)


def _clone(
    ctx: JobContext, at: Hypervisor, disk: Disk, spec: VolumeSpec, share: Share
) -> VolumeFacts:
    return at.clone_volume(_name(disk), disk.volume, spec, partial(_progress, ctx, share))


def _volume(at: Hypervisor, disk: Disk, image: Image) -> VolumeSpec:
    return VolumeSpec(
        pool=_pool_of(image),
        name=image.volume_name,
        capacity_bytes=at.volume(_name(disk), disk.volume).capacity_bytes,
        format="qcow2",
    )


def _pairs(vm: VM, backup: Backup) -> list[tuple[Disk, Image]]:
    """The machine's disks and what they are copied to."""
    disks = {disk.target: disk for disk in vm.disks.select_related("pool")}
    return [(disks[target], image) for target, image in backup.files]


def _name(disk: Disk) -> str:
    if disk.pool is None:
        raise RuntimeError("a machine that was made has its disks in a pool")
    return disk.pool.name


def _pool_of(image: Image) -> str:
    copy = image.copies.select_related("pool").first()
    if copy is None:
        raise DomainError("image.file_missing", name=image.name)
    return copy.pool.name


def _rows() -> QuerySet[Backup, Backup]:
    return Backup.objects.select_related("image", "vm").prefetch_related("more__image")


def _backup(ctx: JobContext) -> Backup:
    row = _rows().filter(pk=ctx.params["backup"]).first()
    if row is None:
        raise DomainError("backup.not_found")
    return row


def _image(ctx: JobContext) -> Image:
    row = Image.objects.filter(pk=ctx.params["image"]).first()
    if row is None:
        raise DomainError("backup.not_found")
    return row
