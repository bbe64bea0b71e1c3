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
from hosts.virt.errors import NoSuchDomain, Unsupported
from hosts.virt.spec import DiskCopy, VolumeSpec
from jobs.models import Job
from vms import at_host, power, replacing, state, timeline
from vms.backups import services
from vms.guest import freezing
from vms.models import VM, Backup, Disk, Image, ImageCopy
from vms.provisioning.steps import afresh, delete_volume

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor
    from jobs.context import JobContext


log = logging.getLogger(__name__)


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


def read(ctx: JobContext, at: Hypervisor, pool: str, volume: str) -> tuple[str, int]:
    """SHA-256 and length of the volume's file."""

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    target = _Sum()
    at.download_volume(pool, volume, cast("BinaryIO", target), progress)
    return target.hash.hexdigest(), target.length


# --- vm.backup -----------------------------------------------------------------------------------


def copy(ctx: JobContext) -> None:
    """All of the disk, standing on nothing. A running guest goes on: its disk is copied as it is at
    one moment, the beginning by libvirt's backup, where its file systems stand still if it has an
    agent; the end where the host has no such backup."""
    vm, backup = at_host.machine(ctx), _backup(ctx)
    disk = _disk(vm)
    at, pool = at_host.hypervisor(vm), disk.pool.name if disk.pool else ""
    name = backup.image.volume_name
    spec = VolumeSpec(
        pool=pool,
        name=name,
        capacity_bytes=at.volume(pool, disk.volume).capacity_bytes,
        format="qcow2",
    )

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    if at_host.is_on(vm):
        at.stop_copies(vm.uuid)  # of an attempt that died: they write this volume
        afresh(at, spec, partial(at.create_volume, spec))
        copies = [DiskCopy(target=disk.target, pool=pool, volume=name)]
        try:
            with freezing.frozen(ctx) as stood_still:
                at.begin_backup(vm.uuid, copies)
        except Unsupported as error:
            log.info("%s is backed up by block copy: %s", vm.uuid, error.raw)
            at.copy_running(vm.uuid, copies, progress)
        else:
            ctx.save_data(stood_still=stood_still)
            at.finish_backup(vm.uuid, progress)
    else:
        afresh(at, spec, lambda: at.clone_volume(pool, disk.volume, spec, progress))


def add_up(ctx: JobContext) -> None:
    """The checksum that a restore compares."""
    freezing.thaw(ctx)
    vm, backup = at_host.machine(ctx), _backup(ctx)
    at, pool = at_host.hypervisor(vm), _disk(vm).pool
    name = pool.name if pool else ""
    checksum, size = read(ctx, at, name, backup.image.volume_name)
    ctx.save_data(checksum=checksum, size=size)


def drop(ctx: JobContext) -> None:
    freezing.thaw(ctx)
    vm = at_host.machine(ctx)
    backup = Backup.objects.select_related("image").filter(pk=ctx.params["backup"]).first()
    if backup is None or backup.image.state == Image.State.READY:
        return
    at = at_host.hypervisor(vm)
    with suppress(NoSuchDomain):
        if at_host.is_on(vm):
            at.stop_copies(vm.uuid)
    pool = _disk(vm).pool
    if pool is not None:
        delete_volume(at, pool.name, backup.image.volume_name)


def taken(job: Job) -> None:
    backup = Backup.objects.select_related("image", "vm").filter(pk=job.params["backup"]).first()
    if backup is None:
        return
    ImageCopy.objects.filter(image=backup.image).update(
        state=ImageCopy.State.READY, copied_at=timezone.now()
    )
    Image.objects.filter(pk=backup.image.pk).update(
        state=Image.State.READY,
        checksum=job.data["checksum"],
        checksum_algorithm="sha256",
        file_size_bytes=job.data["size"],
    )
    Backup.objects.filter(pk=backup.pk).update(frozen=job.data.get("stood_still", False))
    quotas.activate_subject(services.subject(backup))
    timeline.record(backup.vm, "backup.taken", actor=job.actor, job=job, number=backup.number)
    services.forget_old(backup.vm)
    state.announce(backup.vm)


def not_taken(job: Job) -> None:
    forget_rows(job)
    if job.vm is not None:
        timeline.record(job.vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
        state.announce(job.vm)


def forget_rows(job: Job) -> None:
    """Of the backup that the job did not take."""
    backup = Backup.objects.select_related("image").filter(pk=job.params["backup"]).first()
    if backup is not None:
        image = backup.image
        services.forget(image)
        image.copies.all().delete()
        image.delete()


# --- vm.restore_backup ---------------------------------------------------------------------------


def verify(ctx: JobContext) -> None:
    vm, backup = at_host.machine(ctx), _backup(ctx)
    if at_host.is_on(vm):
        raise Conflict("vm.why.backup_on", name=vm.name)
    compare(ctx, at_host.hypervisor(vm), backup.image)


def compare(ctx: JobContext, at: Hypervisor, image: Image) -> None:
    """Raise unless the backup's file is what was written."""
    found = image.copies.select_related("pool").filter(state=ImageCopy.State.READY).first()
    if found is None:
        raise DomainError("image.file_missing", name=image.name)
    if read(ctx, at, found.pool.name, image.volume_name)[0] != image.checksum:
        raise DomainError("backup.damaged")


def copy_back(ctx: JobContext) -> None:
    replacing.copy(ctx, _backup(ctx).image.volume_name)


def restored(job: Job) -> None:
    backup = Backup.objects.filter(pk=job.params["backup"]).first()
    if job.vm is not None and backup is not None:
        timeline.record(job.vm, "backup.restored", actor=job.actor, job=job, number=backup.number)
    power.succeeded(job)


# --- inside --------------------------------------------------------------------------------------


def _disk(vm: VM) -> Disk:
    return vm.disks.select_related("pool")[0]


def _backup(ctx: JobContext) -> Backup:
    row = Backup.objects.select_related("image").filter(pk=ctx.params["backup"]).first()
    if row is None:
        raise DomainError("backup.not_found")
    return row
