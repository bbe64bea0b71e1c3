"""What makes recordings: one task for each, in the event loop of the site's process.

A kind of console registers how it is recorded: ``async record(vm, sink) -> reason`` writes to the
sink until what it records ends. This module opens the file, bounds it, notes how it goes, and ends
it when somebody asks, the file is full, or nobody looks any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import BinaryIO
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async

from accounts.errors import DomainError
from vms.consoles import recordings
from vms.models import VM, ConsoleRecording

log = logging.getLogger(__name__)

BUFFER_BYTES = 256 << 10
FLUSH_EVERY_S = 1.0

Record = Callable[[VM, "Sink"], Awaitable[str]]
_kinds: dict[str, Record] = {}
_running: dict[UUID, asyncio.Task[None]] = {}


class Full(Exception):  # noqa: N818 - an end, not an error
    """The recording is as large as it may be."""


class Sink:
    """A recording's file. Written in pieces by a thread: a slow disk holds nobody up."""

    def __init__(self, file: BinaryIO, index: BinaryIO, *, most_bytes: int) -> None:
        self._file, self._index, self._most = file, index, most_bytes
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        self._began = time.monotonic()
        self.size = 0  # bytes, also those that are not on the disk yet

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    async def write(self, data: bytes) -> None:
        """Full: nothing of ``data`` was taken."""
        if self.size + len(data) > self._most:
            raise Full
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            await self.flush()

    async def mark(self, line: bytes) -> None:
        """A line of the index."""
        await asyncio.to_thread(self._index.write, line + b"\n")

    async def flush(self) -> None:
        async with self._lock:
            data, self._buffer = bytes(self._buffer), bytearray()
            await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        self._index.flush()


def register(kind: str, record: Record) -> None:
    _kinds[kind] = record


def begin(pk: UUID) -> None:
    """From a request: make the recording in the site's event loop, which goes on."""

    async def begin_there() -> None:
        begin_here(pk)

    async_to_sync(begin_there)()


def begin_here(pk: UUID) -> asyncio.Task[None]:
    """In the event loop that runs. The task has a context of its own: that of a request would
    bind it to the request's thread."""
    task = contextvars.Context().run(asyncio.ensure_future, run(pk))
    _running[pk] = task
    task.add_done_callback(lambda _: _running.pop(pk, None))
    return task


async def run(pk: UUID) -> None:
    """Make one recording, from its row to its end."""
    row = await database_sync_to_async(_row)(pk)
    if row is None or row.kind not in _kinds:
        return
    size, duration, reason = 0, 0, "lost"
    try:
        with _open(row) as (file, index):
            sink = Sink(file, index, most_bytes=recordings.most_bytes())
            try:
                reason = await _record(row, sink)
            finally:
                size, duration = sink.size, sink.elapsed_ms()
                await asyncio.shield(sink.flush())
    except OSError as error:
        log.warning("recording %s ends: %s", pk, error)
        reason = "disk"
    finally:
        await asyncio.shield(
            database_sync_to_async(recordings.finish)(
                row, reason, size_bytes=size, duration_ms=duration
            )
        )


def _row(pk: UUID) -> ConsoleRecording | None:
    rows = ConsoleRecording.objects.select_related("vm__host")
    return rows.filter(pk=pk, ended_at__isnull=True).first()


@contextlib.contextmanager
def _open(row: ConsoleRecording) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    folder = recordings.file_of(row).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(os.fdopen(os.open(path, flags, 0o600), "wb"))
            for path in (recordings.file_of(row), recordings.index_of(row))
        ]
        yield files[0], files[1]


async def _record(row: ConsoleRecording, sink: Sink) -> str:
    made = asyncio.ensure_future(_kinds[row.kind](row.vm, sink))
    watched = asyncio.ensure_future(_watch(row, sink))
    try:
        done, _ = await asyncio.wait({made, watched}, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    except Full:
        return "full"
    except DomainError as error:
        return error.code.rpartition(".")[2]
    finally:
        for task in (made, watched):
            task.cancel()
        await asyncio.gather(made, watched, return_exceptions=True)


async def _watch(row: ConsoleRecording, sink: Sink) -> str:
    """Why it must end, asked again and again."""
    noted = 0.0
    while True:
        await asyncio.sleep(FLUSH_EVERY_S)
        await sink.flush()
        if time.monotonic() - noted < recordings.SEEN_EVERY_S:
            continue
        noted = time.monotonic()
        if reason := await database_sync_to_async(recordings.seen)(
            row, size_bytes=sink.size, duration_ms=sink.elapsed_ms()
        ):
            return reason
