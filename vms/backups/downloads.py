"""A backup's file, from its host to who downloads it.

Whether they may is read from the database. The bytes are the one thing that a page reads from a
host: by threads of their own, on connections of their own, a piece at a time as the browser takes
them, and never more downloads at once than there are places. No other page waits for them, and
nothing is kept here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts import audit, policy
from accounts.errors import Conflict, NotFound, TooMany, Unavailable
from accounts.models import User
from accounts.policy import Action
from hosts import connections
from hosts.models import Host
from hosts.virt.errors import VirtError
from vms import downloads
from vms.backups import services
from vms.models import VM, Backup, Image, ImageCopy

if TYPE_CHECKING:
    from hosts.virt.protocol import VolumeReader

log = logging.getLogger(__name__)

# In one process of the site: each holds a connection to its host.
AT_ONCE, AT_ONCE_EACH = 8, 2
# A browser that takes nothing for so long is let go; it can go on from where it was.
IDLE_S = 120.0

NVRAM = "nvram"  # instead of a disk's target: what the firmware remembers

_threads = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="backup-download")


class Place:
    """One download's. It counts until ``leave``, or until nobody holds it any more: an answer that
    was given up before anybody read of it is not told of its end."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id

    def leave(self) -> None:
        """Idempotent."""
        with _taking:
            _taken.discard(self)


_taken: WeakSet[Place] = WeakSet()
_taking = threading.Lock()


def take_place(user_id: int) -> Place:
    """Before the answer begins, so that requests that come together do not all pass. Raises
    TooMany."""
    with _taking:
        users = [place.user_id for place in _taken]
        if len(users) >= AT_ONCE or users.count(user_id) >= AT_ONCE_EACH:
            raise TooMany("backup.downloads", limit=AT_ONCE_EACH)
        place = Place(user_id)
        _taken.add(place)
    return place


def answer(
    request: HttpRequest, backup: Backup, *, actor: User, target: str = ""
) -> HttpResponseBase:
    """Of the disk ``target`` ("": the first), or of ``nvram``, all of it or a range.

    Raises NotFound, Forbidden, Conflict, TooMany, Unavailable."""
    vm = backup.vm
    policy.require(actor, Action.EDIT, vm)
    target = target or backup.target
    image = backup.image if target == NVRAM else services.file_of(backup, target)
    file = _file(backup, image, target)
    if image.state != Image.State.READY:
        raise Conflict("backup.not_ready", number=backup.number)
    copy = ImageCopy.objects.select_related("pool__host", "image").filter(image=image).first()
    if copy is None:
        raise Conflict("backup.not_ready", number=backup.number)
    if copy.pool.host.reach == Host.Reach.DOWN:
        raise Unavailable("vm.why.host_down", host=copy.pool.host.name)
    place = take_place(actor.pk)
    try:
        response = downloads.stream(
            request,
            file.size_bytes,
            lambda start, end: _pieces(copy, file, place, start, end),
            content_type=file.content_type,
            name=f"{vm.name}-backup-{backup.number}{file.suffix}",
            may=lambda user: _may_still(vm, user),
            tag=file.checksum,
        )
        if response.streaming:
            about = {
                "backup": backup.number,
                "disk": target,
                "range": request.headers.get("Range", "")[:64],
            }
            audit.record(actor, "vm.download_backup", vm, after=about, team_id=vm.team_id)
    except BaseException:
        place.leave()
        raise
    if not response.streaming:
        place.leave()
    return response


@dataclass(frozen=True, kw_only=True)
class _File:
    volume: str
    size_bytes: int
    checksum: str
    suffix: str  # of the name that it gets
    content_type: str = "application/x-qemu-disk"


def _file(backup: Backup, image: Image, target: str) -> _File:
    if target != NVRAM:
        disk = f"-{target}" if len(backup.files) > 1 else ""
        return _File(
            volume=image.volume_name,
            size_bytes=image.file_size_bytes,
            checksum=image.checksum,
            suffix=f"{disk}.qcow2",
        )
    if not image.nvram_checksum:
        raise NotFound("backup.no_nvram", number=backup.number)
    return _File(
        volume=image.nvram_name,
        size_bytes=image.nvram_size_bytes,
        checksum=image.nvram_checksum,
        suffix="-nvram.fd",
        content_type="application/octet-stream",
    )


async def _pieces(
    copy: ImageCopy, file: _File, place: Place, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    reader: VolumeReader | None = None
    letting_go: asyncio.TimerHandle | None = None
    try:
        reader = await loop.run_in_executor(_threads, _begin, copy, file, start)
        while start < end:
            piece = await loop.run_in_executor(_threads, reader.read)
            if not piece:
                raise VirtError(f"{file.volume} ends {end - start} bytes too early")
            letting_go = loop.call_later(IDLE_S, _threads.submit, reader.close)
            yield piece[: end - start]
            letting_go.cancel()
            start += len(piece)
    except VirtError as error:
        # Too late for an answer: the browser sees that the end is missing, and may go on later.
        log.warning("download of %s ended early: %s (%s)", copy.image.uuid, error.raw, error.ref)
        raise
    finally:
        place.leave()
        if letting_go is not None:
            letting_go.cancel()
        if reader is not None:
            _threads.submit(reader.close)


def _begin(copy: ImageCopy, file: _File, start: int) -> VolumeReader:
    """On a connection of its own, so that its end ends no other's."""
    at = connections.hypervisor(copy.pool.host)
    reader = at.open_volume(copy.pool.name, file.volume, start)
    if reader.size_bytes != file.size_bytes:
        reader.close()
        raise VirtError(f"{reader.size_bytes} bytes, not {file.size_bytes}")
    return reader


def _may_still(vm: VM, user: User) -> bool:
    row = VM.objects.filter(pk=vm.pk).first()
    return row is not None and policy.can(user, Action.EDIT, row)
