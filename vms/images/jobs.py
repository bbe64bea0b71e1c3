"""The kinds of jobs that move images: ``image.fetch``, ``image.copy``, ``image.delete``."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.errors import Conflict, DomainError, Invalid
from hosts import connections
from hosts.models import Pool
from hosts.virt.errors import DomainBusy, HostUnreachable, NoSuchPool, NoSuchVolume
from hosts.virt.spec import VolumeSpec
from jobs import registry
from jobs import services as job_services
from jobs.errors import CommandTimeout
from jobs.models import Job
from jobs.registry import JobKind, Park, StepSpec
from vms import nvram
from vms.images import copies, download, files, foreign, inspect, poolvolumes, services
from vms.images.download import Checksum
from vms.models import Image, ImageCopy

if TYPE_CHECKING:
    from jobs.context import JobContext

FETCH_DEADLINE = timedelta(hours=12)
COPY_DEADLINE = timedelta(hours=4)
DELETE_DEADLINE = timedelta(days=14)  # a host may be away for days
HOST_AWAY_S = 60.0
VOLUME_BUSY_S = 3.0
CONVERT_TIMEOUT_S = 4 * 3600.0
CONVERT_CPU_S = 2 * 3600
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")


# --- image.fetch ---------------------------------------------------------------------------------


def bring(ctx: JobContext) -> None:
    """Download it, hashing as it comes. A download that was cut off begins again."""
    image = _image(ctx)
    Image.objects.filter(pk=image.pk).update(state=Image.State.FETCHING)
    wanted = _wanted_checksum(ctx, image)

    def progress(done: int, total: int | None) -> None:
        ctx.progress(done / total if total else None)

    got = download.download(image.url, files.part(image), checksum=wanted, progress=progress)
    ctx.save_data(checksum=got.checksum.value, algorithm=got.checksum.algorithm)


def bring_from_pool(ctx: JobContext) -> None:
    """Copy a volume of a host's pool to this machine, where it is inspected as an upload is. The
    volume itself is only read."""
    image, volume = _image(ctx), ctx.params["volume"]
    Image.objects.filter(pk=image.pk).update(state=Image.State.FETCHING)
    pool = Pool.objects.select_related("host").filter(pk=ctx.params["pool"]).first()
    if pool is None:
        raise Invalid("image.volume_gone", volume=volume)
    at = connections.hypervisor(pool.host)
    with contextlib.suppress(NoSuchPool):  # said below
        at.refresh_pool(pool.name)
    facts = poolvolumes.check_at_host(at, pool, volume)
    download.refuse_without_space(files.folder(), facts.allocation_bytes)

    def progress(done: int, total: int) -> None:
        download.refuse_size(max(done, total))
        download.refuse_without_space(files.folder(), 0)
        ctx.progress(done / total if total else None)

    try:
        with os.fdopen(os.open(files.part(image), download.WRITE_MODE, 0o600), "wb") as target:
            at.download_volume(pool.name, volume, target, progress)
            target.flush()
            os.fsync(target.fileno())
    except (NoSuchPool, NoSuchVolume) as error:
        raise Invalid("image.volume_gone", volume=volume) from error
    poolvolumes.check_at_host(at, pool, volume)  # a machine may have begun to write to it meanwhile


def verify(ctx: JobContext) -> None:
    """The checksum of an upload; without one to compare, the file's own is kept."""
    image = _image(ctx)
    Image.objects.filter(pk=image.pk).update(state=Image.State.FETCHING)
    path = files.part(image)
    if not path.exists():
        raise Invalid("image.upload_lost", name=image.name)
    wanted = _wanted_checksum(ctx, image)

    def progress(done: int, total: int | None) -> None:
        ctx.progress(done / total if total else None)

    got = download.hash_file(path, wanted.algorithm if wanted else "sha256", progress)
    download.verify_checksum(wanted, got)
    ctx.save_data(checksum=got.value, algorithm=got.algorithm)


def look_inside(ctx: JobContext) -> None:
    """Refuse what is hostile or broken, before it is called an image."""
    image = _image(ctx)
    path = _arrived(ctx, image)
    if found := foreign.recognise(path):
        if image.format:
            raise Invalid("image.format_differs", declared=image.format, found=found)
        ctx.save_data(foreign=found)
        if found != "ova":  # what an archive holds is looked at when it is out
            foreign.examine(path)
        return
    _inspect(ctx, path, image.format)


def convert(ctx: JobContext) -> None:
    """A disk of another virtualization becomes a qcow2, which is inspected as any other."""
    image = _image(ctx)
    part, source, target = files.part(image), files.part(image), files.converted(image)
    if foreign.recognise(part):  # else an attempt that died has put the result in place
        if ctx.data["foreign"] == "ova":
            source = files.unpacked(image)
            download.refuse_without_space(files.folder(), part.stat().st_size)
            foreign.unpack_ova(part, source, lambda _done, _all: ctx.checkpoint())
        facts = foreign.examine(source)
        download.refuse_without_space(files.folder(), source.stat().st_size)
        target.unlink(missing_ok=True)
        argv = foreign.convert_command(source, facts.format, target)
        output = _ConversionOutput(ctx)
        result = _run(ctx, inspect.bounded(argv, cpu_s=CONVERT_CPU_S), CONVERT_TIMEOUT_S, output)
        if result.returncode != 0:
            raise Invalid("image.convert_failed")
        target.replace(part)
        files.unpacked(image).unlink(missing_ok=True)
    _inspect(ctx, part, "qcow2")


class _ConversionOutput:
    """``qemu-img -p`` writes ``(12.34/100%)`` and a carriage return."""

    def __init__(self, ctx: JobContext) -> None:
        self._ctx = ctx

    def __call__(self, chunk: bytes) -> None:
        if found := _PERCENT.findall(chunk):
            self._ctx.progress(min(1.0, float(found[-1]) / 100))


def _inspect(ctx: JobContext, path: Path, declared: str) -> None:
    def run(argv: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        return _run(ctx, argv, timeout_s)

    facts = inspect.inspect(path, declared=declared, run=run)
    ctx.save_data(
        format=facts.format,
        kind=facts.kind,
        virtual_size_bytes=facts.virtual_size_bytes,
        file_size_bytes=facts.file_size_bytes,
    )


def _run(
    ctx: JobContext, argv: list[str], timeout_s: float, on_output: _ConversionOutput | None = None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return ctx.run(argv, timeout_s=timeout_s, on_output=on_output)
    except CommandTimeout as error:
        raise Invalid("image.check_failed") from error
    except FileNotFoundError as error:
        raise DomainError("image.qemu_img_missing") from error


def _is_foreign(ctx: JobContext) -> bool:
    return bool(ctx.data.get("foreign"))


def store(ctx: JobContext) -> None:
    """Give it its final name: only what was inspected ever has one."""
    image = _image(ctx)
    image.format = ctx.data["format"]
    with contextlib.suppress(FileNotFoundError):  # an earlier attempt renamed it
        files.part(image).rename(files.stored(image))
    if not files.stored(image).exists():
        raise Invalid("image.upload_lost", name=image.name)


def discard(ctx: JobContext) -> None:
    """Undo of every step: nothing of a refused file stays."""
    image = _image_of(ctx.job)
    if image is not None and image.state != Image.State.READY:
        files.remove(image)


def fetched(job: Job) -> None:
    image = job.image
    if image is None:
        return
    Image.objects.filter(pk=image.pk).update(
        state=Image.State.READY,
        format=job.data["format"],
        kind=job.data["kind"],
        has_cloud_init=image.has_cloud_init and job.data["kind"] == Image.Kind.DISK,
        checksum=job.data["checksum"],
        checksum_algorithm=job.data["algorithm"],
        virtual_size_bytes=job.data["virtual_size_bytes"],
        file_size_bytes=job.data["file_size_bytes"],
    )
    services.announce(image)


def not_fetched(job: Job) -> None:
    image = job.image
    if image is None:
        return
    cancelled = job.state == Job.State.CANCELLED
    Image.objects.filter(pk=image.pk).exclude(state=Image.State.READY).update(
        state=Image.State.FAILED,
        published=False,
        error_code="image.fetch_cancelled" if cancelled else job.error_code,
        error_params={} if cancelled else job.error_params,
        error_ref=job.error_ref,
        upload_received_bytes=0,
    )
    services.announce(image)


def fetch_again(job: Job) -> Job:
    if job.image is None or job.actor is None:
        raise Conflict("image.gone", name=job.target_name)
    _, again = services.fetch_again(job.image, actor=job.actor)
    return again


def _is_download(ctx: JobContext) -> bool:
    return _image(ctx).source == Image.Source.URL


def _is_from_pool(ctx: JobContext) -> bool:
    return _image(ctx).source == Image.Source.POOL


def _is_upload(ctx: JobContext) -> bool:
    return not _is_download(ctx)


def _wanted_checksum(ctx: JobContext, image: Image) -> Checksum | None:
    if ctx.params.get("checksum_url"):
        return download.fetch_checksum(ctx.params["checksum_url"], ctx.params["file_name"])
    if image.checksum:
        return Checksum(algorithm=image.checksum_algorithm, value=image.checksum)
    return None


def _arrived(ctx: JobContext, image: Image) -> Path:
    """Where the file is: an attempt that died may have given it its final name already."""
    path = files.part(image)
    if not path.exists() and ctx.data.get("format"):
        image.format = ctx.data["format"]
        path = files.stored(image)
    if not path.exists():
        raise Invalid("image.upload_lost", name=image.name)
    return path


# --- image.copy ----------------------------------------------------------------------------------


def copy(ctx: JobContext) -> None:
    """Upload it into the pool. What an attempt that died has left is written from the start."""
    image, row = _image(ctx), _copy_row(ctx)
    if row.state == ImageCopy.State.READY:
        return
    path = files.stored(image)
    if not path.exists():
        raise DomainError("image.file_missing", name=image.name)
    pool = row.pool.name
    at = connections.hypervisor(row.pool.host)
    _delete_volume(ctx, row)
    at.create_volume(
        # In its own format and size, so that the host's list of volumes never says otherwise.
        VolumeSpec(
            pool=pool,
            name=image.volume_name,
            capacity_bytes=image.virtual_size_bytes,
            format=image.format,
        )
    )

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    with path.open("rb") as source:
        at.upload_volume(pool, image.volume_name, source, image.file_size_bytes, progress)
    at.refresh_pool(pool)


def discard_copy(ctx: JobContext) -> None:
    row = _copy_rows(ctx.job).select_related("pool__host", "image").first()
    if row is not None and row.state != ImageCopy.State.READY:
        _delete_volume(ctx, row)


def copied(job: Job) -> None:
    _copy_rows(job).update(state=ImageCopy.State.READY, copied_at=timezone.now())
    if job.image_id is not None:
        job_services.wake(image_id=job.image_id)


def not_copied(job: Job) -> None:
    _copy_rows(job).update(state=ImageCopy.State.FAILED)
    if job.image_id is not None:
        job_services.wake(image_id=job.image_id)


def copy_again(job: Job) -> Job:
    row = _copy_rows(job).select_related("image", "pool__host").first()
    if row is None:
        raise Conflict("image.gone", name=job.target_name)
    again = copies.ensure_copy(image=row.image, pool=row.pool, actor=job.actor).job
    if again is None or again.pk == job.pk:
        raise Conflict("image.copied_already", name=job.target_name)
    return again


def _copy_row(ctx: JobContext) -> ImageCopy:
    row = _copy_rows(ctx.job).select_related("pool__host", "image").first()
    if row is None:  # the pool or the image has been taken out of the database meanwhile
        raise DomainError("image.gone", name=ctx.job.target_name)
    return row


def _copy_rows(job: Job) -> QuerySet[ImageCopy, ImageCopy]:
    return ImageCopy.objects.filter(image=job.image_id, pool=job.params["pool"])


# --- image.delete --------------------------------------------------------------------------------


def delete_copies(ctx: JobContext) -> None:
    """From every host; one that is away is waited for."""
    rows = ImageCopy.objects.filter(image__in=_doomed(ctx.job)).select_related(
        "pool__host", "image"
    )
    away = ""
    for row in rows:
        ctx.checkpoint()
        try:
            _delete_volume(ctx, row)
        except NoSuchPool:
            pass
        except HostUnreachable:
            away = row.pool.host.name
            continue
        row.delete()
    if away:
        ctx.note("image.host_away", host=away)
        raise Park(HOST_AWAY_S, waiting_for="host", stops_clock=True)


def delete_file(ctx: JobContext) -> None:
    for image in Image.objects.filter(pk__in=_doomed(ctx.job)):
        files.remove(image)


def deleted(job: Job) -> None:
    for image in Image.objects.filter(pk__in=_doomed(job)):
        services.announce(image)
        if not services.forget(image):  # a machine was asked for while the job was waiting
            Image.objects.filter(pk=image.pk).update(
                state=Image.State.FAILED, error_code="image.file_missing", error_params={}
            )


def _doomed(job: Job) -> list[int]:
    """Those that go with it: a backup has an image of each disk."""
    return [job.params["image"], *job.params.get("more", [])]


# --- inside --------------------------------------------------------------------------------------


def _image(ctx: JobContext) -> Image:
    image = _image_of(ctx.job)
    if image is None:
        raise DomainError("image.gone", name=ctx.job.target_name)
    return image


def _image_of(job: Job) -> Image | None:
    """As it is now: another job or a person may have changed it since the job was read."""
    return None if job.image_id is None else Image.objects.filter(pk=job.image_id).first()


def _delete_volume(ctx: JobContext, row: ImageCopy) -> None:
    """Parks while the host still writes it for an attempt that died."""
    try:
        at = connections.hypervisor(row.pool.host)
        at.delete_volume(row.pool.name, row.image.volume_name)
        nvram.drop(at, row.image, row.pool.name)
    except DomainBusy as error:
        ctx.checkpoint()
        raise Park(VOLUME_BUSY_S, waiting_for="volume") from error


FETCH_KIND = JobKind(
    kind=services.FETCH,
    label=_("Fetch image"),
    verb="fetching",
    queue="bulk",
    deadline=FETCH_DEADLINE,
    steps=(
        StepSpec(
            key="download",
            label=_("Downloading"),
            do=bring,
            undo=discard,
            weight=8,
            optional=_is_download,
        ),
        StepSpec(
            key="pool",
            label=_("Copying from the storage pool"),
            do=bring_from_pool,
            undo=discard,
            weight=6,
            optional=_is_from_pool,
        ),
        StepSpec(
            key="verify",
            label=_("Checking the checksum"),
            do=verify,
            undo=discard,
            weight=2,
            optional=_is_upload,
        ),
        StepSpec(key="inspect", label=_("Looking inside"), do=look_inside, undo=discard),
        StepSpec(
            key="convert",
            label=_("Converting to qcow2"),
            do=convert,
            undo=discard,
            weight=4,
            optional=_is_foreign,
        ),
        StepSpec(key="store", label=_("Storing"), do=store, undo=discard),
    ),
    on_success=fetched,
    on_failure=not_fetched,
    retry=fetch_again,
)

COPY_KIND = JobKind(
    kind=copies.KIND,
    label=_("Copy image to host"),
    verb="copying",
    queue="bulk",
    deadline=COPY_DEADLINE,
    steps=(
        StepSpec(
            key="copy",
            label=_("Copying image to the host"),
            do=copy,
            undo=discard_copy,
            slot="copy",
        ),
    ),
    on_success=copied,
    on_failure=not_copied,
    retry=copy_again,
)

DELETE_KIND = JobKind(
    kind=services.DELETE,
    label=_("Delete image"),
    verb="deleting",
    deadline=DELETE_DEADLINE,
    steps=(
        StepSpec(key="copies", label=_("Deleting the hosts' copies"), do=delete_copies, weight=4),
        StepSpec(key="file", label=_("Deleting the file"), do=delete_file),
    ),
    on_success=deleted,
)


def register() -> None:
    """``VmsConfig.ready`` calls this."""
    for kind in (FETCH_KIND, COPY_KIND, DELETE_KIND):
        registry.register(kind)
