"""Uploads from the browser, in pieces that can be sent again: the offset is the contract.

Like tus (https://tus.io/protocols/resumable-upload): ``begin`` makes the row, each ``append``
says at which offset it writes, and ``Image.upload_received_bytes`` says where to go on after a
broken connection. The last piece starts the job that checks and inspects the file.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Conflict, Invalid
from accounts.policy import Action
from jobs.models import Job
from vms.images import details, download, files, services
from vms.images.details import Details
from vms.models import Image

if TYPE_CHECKING:
    from accounts.models import User

GIB = 1024**3
CHUNK_BYTES = 8 * 1024 * 1024  # what our page sends at once
CHUNK_MAX_BYTES = 64 * 1024 * 1024
ABANDONED_AFTER = dt.timedelta(hours=24)
LEFT_OVER_AFTER_S = 3600.0
_READ_BYTES = 1024 * 1024
State = Image.State


def begin(
    *,
    actor: User,
    size_bytes: int,
    file_name: str,
    about: Details,
    checksum: str = "",
    publish: bool = False,
) -> Image:
    """The row of an upload that is about to come. Raises Forbidden, Invalid, DomainError."""
    policy.require(actor, Action.SITE_ADMIN)
    limit_gib: int = settings.IMAGE_MAX_FILE_GIB
    if size_bytes < 1:
        raise Invalid("image.empty_file", fields={"size_bytes": "image.empty_file"})
    if size_bytes > limit_gib * GIB:
        code = "image.file_too_big"
        raise Invalid(code, fields={"size_bytes": code}, limit_gib=limit_gib)
    download.refuse_without_space(files.folder(), size_bytes)
    wanted = download.parse_checksum(checksum)
    image = Image(
        source=Image.Source.UPLOAD,
        format=services.declared_format(file_name),
        checksum_algorithm=wanted.algorithm if wanted else "",
        checksum=wanted.value if wanted else "",
        upload_total_bytes=size_bytes,
        published=publish,  # takes effect when the file has been inspected: see visible_to
        created_by=actor,
    )
    details.apply(image, about)
    with transaction.atomic():
        services.insert(image)
        audit.record(actor, "image.add", image, after=services.recorded(image))
        services.announce(image)
    return image


def append(
    image: Image, *, actor: User, offset: int, length: int, body: BinaryIO
) -> tuple[Image, Job | None]:
    """Write ``length`` bytes of ``body`` at ``offset``. The job comes with the last piece.

    Conflict with code ``image.upload_offset`` (params: ``offset``, where to go on) or
    ``image.upload_busy`` (another piece of it is being written).
    """
    policy.require(actor, Action.SITE_ADMIN)
    if not 0 < length <= CHUNK_MAX_BYTES:
        raise Invalid("image.upload_chunk", limit_mib=CHUNK_MAX_BYTES // 1024**2)
    with _locked(files.part(image)) as target:
        image.refresh_from_db()
        _refuse(image, offset, length)
        download.refuse_without_space(files.folder(), length)
        # A piece that broke off has left its beginning behind.
        os.ftruncate(target, offset)
        os.lseek(target, offset, os.SEEK_SET)
        _write(target, body, length)
        return _received(image, actor, offset, offset + length)


def cancel(image: Image, *, actor: User) -> None:
    """Forget an upload that has not come to its end, with what has arrived of it."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = Image.objects.select_for_update().get(pk=image.pk)
        if not is_open(row) and not (
            row.source == Image.Source.UPLOAD and row.state == State.FAILED
        ):
            raise Conflict("image.not_uploading", name=row.name)
        if Job.objects.active().filter(image=row).exists():
            raise Conflict("image.not_uploading", name=row.name)
        audit.record(actor, "image.upload_cancel", row, before=services.recorded(row))
        services.announce(row)
        row.delete()
    files.remove(image)


def is_open(image: Image) -> bool:
    """More of it is expected."""
    return (
        image.source == Image.Source.UPLOAD
        and image.state == State.NEW
        and image.upload_received_bytes < image.upload_total_bytes
    )


def tidy() -> None:
    """Reconciler: give up uploads that nobody goes on with, and delete files without an image."""
    for image in Image.objects.filter(source=Image.Source.UPLOAD, state=State.NEW):
        if is_open(image) and _last_touched(image) < timezone.now() - ABANDONED_AFTER:
            _give_up(image, "image.upload_abandoned")
    # A job writes its end in the same transaction as its image's state; this is the last resort
    # for one that was taken away by hand.
    lost = Image.objects.filter(state=State.FETCHING).exclude(
        pk__in=Job.objects.active().filter(image__isnull=False).values("image_id")
    )
    for image in lost:
        _give_up(image, "image.fetch_lost")
    _delete_left_over()


def _delete_left_over() -> None:
    for uuid, path in list(files.settled(LEFT_OVER_AFTER_S)):
        image = Image.objects.filter(uuid=uuid).first()
        busy = image is not None and Job.objects.active().filter(image=image).exists()
        if busy or (image is not None and _wants(image, path)):
            continue
        path.unlink(missing_ok=True)


def _wants(image: Image, path: Path) -> bool:
    if path.suffix in {".part", ".disk", ".converted"}:
        return image.state in (State.NEW, State.FETCHING)
    return image.state in (State.READY, State.RETIRED) and path.suffix == f".{image.format}"


def _give_up(image: Image, code: str) -> None:
    changed = Image.objects.filter(pk=image.pk, state=image.state).update(
        state=State.FAILED, error_code=code, error_params={}, upload_received_bytes=0
    )
    if changed:
        files.remove(image)
        services.announce(image)


def _last_touched(image: Image) -> dt.datetime:
    path = files.part(image)
    if not path.exists():
        return image.created_at
    return dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.timezone.utc)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file's descriptor, ours alone: two tabs must not write the same upload."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("image.upload_busy") from None
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse(image: Image, offset: int, length: int) -> None:
    if not is_open(image):
        raise Conflict("image.not_uploading", name=image.name)
    if offset != image.upload_received_bytes:
        raise Conflict("image.upload_offset", offset=image.upload_received_bytes)
    if offset + length > image.upload_total_bytes:
        raise Invalid("image.upload_too_long", total=image.upload_total_bytes)


def _write(target: int, body: BinaryIO, length: int) -> None:
    left = length
    while left:
        chunk = body.read(min(_READ_BYTES, left))
        if not chunk:
            raise Conflict("image.upload_cut_off")
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
        left -= len(chunk)
    os.fsync(target)


def _received(image: Image, actor: User, before: int, after: int) -> tuple[Image, Job | None]:
    with transaction.atomic():
        # Compared and set: on a shared file system the lock alone may not hold.
        if not Image.objects.filter(
            pk=image.pk, state=State.NEW, upload_received_bytes=before
        ).update(upload_received_bytes=after):
            raise Conflict("image.upload_busy")
        image.upload_received_bytes = after
        job = None
        if after == image.upload_total_bytes:
            params = {"publish": image.published, "checksum_url": "", "file_name": ""}
            job = services.enqueue_fetch(image, actor=actor, params=params)
        else:
            services.announce(image)
    return image, job
