"""Volume contents over libvirt's streams, sparse where the other side can.

The stream runs in a thread of its own; the caller's thread looks after it, calls ``progress``
(which may write to the caller's database connection) and stops it. A stream that moves nothing
for a minute is given up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import libvirt

from hosts.virt import deadlines
from hosts.virt.connection import WORK_TIMEOUT_S, Connection
from hosts.virt.errors import OperationTimeout, VirtError
from hosts.virt.protocol import Progress

CHUNK_BYTES = 1024 * 1024
# One message of libvirt's protocol; virStreamSend takes no more at once from old clients.
MESSAGE_BYTES = 262_120
ZEROS = bytes(CHUNK_BYTES)
TICK_S = 0.25
STALLED_AFTER_S = 60.0
STOP_WAIT_S = 5.0


@dataclass
class Transfer:
    """What the two threads share. Single writers: ``done`` the stream's, ``stop`` the caller's."""

    total: int
    done: int = 0
    stop: bool = False


class _Stopped(Exception):  # noqa: N818 - internal: the caller has its own error to raise
    pass


LookUp = Callable[[Any], Any]  # virConnect -> virStorageVol


def upload(
    own: Connection, look_up: LookUp, source: BinaryIO, length: int, progress: Progress
) -> None:
    """``length`` bytes of ``source`` into a volume. Holes are only sent into a volume that has
    nothing allocated: in one that has, they would leave old bytes. ``own`` is for this alone."""
    transfer = Transfer(length)

    def run(conn: Any) -> None:
        volume = look_up(conn)
        sparse = volume.info()[2] == 0
        flags = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM if sparse else 0
        stream = conn.newStream(0)
        volume.upload(stream, 0, length, flags)
        _to_its_end(stream, lambda: _send(stream, source, transfer, sparse=sparse))

    _look_after(own.start(run), transfer, progress)


def download(own: Connection, look_up: LookUp, target: BinaryIO, progress: Progress) -> None:
    """All of a volume into ``target``, which becomes sparse where it can seek."""
    transfer = Transfer(0)

    def run(conn: Any) -> None:
        volume = look_up(conn)
        transfer.total = volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
        sparse = target.seekable()
        flags = libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM if sparse else 0
        stream = conn.newStream(0)
        volume.download(stream, 0, 0, flags)
        receive = _receive_sparse if sparse else _receive
        _to_its_end(stream, lambda: receive(stream, target, transfer))

    _look_after(own.start(run), transfer, progress)


def read_end(conn: Any, volume: Any, most_bytes: int) -> bytes:
    """The last bytes of a file as it is now; it may grow meanwhile. Kept in memory: be modest."""
    length = volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    wanted = min(length, most_bytes)
    found = bytearray()
    if not wanted:
        return b""
    stream = conn.newStream(0)

    def receive() -> None:
        while chunk := stream.recv(MESSAGE_BYTES):
            found.extend(chunk)

    volume.download(stream, length - wanted, wanted, 0)
    _to_its_end(stream, receive)
    return bytes(found)


class Reader:
    """A volume's file from some byte on, as it is asked for. Zeros come for holes. On a connection
    of its own, which ``close`` ends; every call is bounded."""

    def __init__(self, own: Connection, look_up: LookUp, offset: int) -> None:
        self._own = own

        def begin(conn: Any) -> tuple[Any, int]:
            volume = look_up(conn)
            size = volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
            stream = conn.newStream(0)
            volume.download(stream, offset, 0, 0)
            return stream, size

        try:
            self._stream, self.size_bytes = own.call(begin, WORK_TIMEOUT_S)
        except BaseException:
            own.close()
            raise

    def read(self) -> bytes:
        """The next piece, up to 1 MiB; nothing at the end."""
        return self._own.call(self._receive, WORK_TIMEOUT_S)

    def close(self) -> None:
        self._own.close()

    def _receive(self, _conn: Any) -> bytes:
        piece = bytearray()
        while len(piece) < CHUNK_BYTES:
            chunk = self._stream.recv(MESSAGE_BYTES)
            if not chunk:
                break
            piece += chunk
        return bytes(piece)


def _to_its_end(stream: Any, move: Callable[[], None]) -> None:
    try:
        move()
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def _look_after(call: deadlines.Call[None], transfer: Transfer, progress: Progress) -> None:
    moved, moved_at = 0, time.monotonic()
    try:
        while not call.wait(TICK_S):
            if transfer.done != moved:
                moved, moved_at = transfer.done, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_AFTER_S:
                raise OperationTimeout(f"nothing moved for {STALLED_AFTER_S:g} s")
            progress(min(moved, transfer.total), transfer.total)
        call.result()
        progress(transfer.total, transfer.total)
    except BaseException:
        transfer.stop = True
        call.wait(STOP_WAIT_S)
        raise


def _abort(stream: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # it ended by itself, or its connection did
        stream.abort()


def _send(stream: Any, source: BinaryIO, transfer: Transfer, *, sparse: bool) -> None:
    hole = 0
    while transfer.done < transfer.total:
        if transfer.stop:
            raise _Stopped
        chunk = source.read(min(CHUNK_BYTES, transfer.total - transfer.done))
        if not chunk:
            raise VirtError(f"the source ended at {transfer.done} of {transfer.total} bytes")
        if sparse and chunk == ZEROS[: len(chunk)]:
            hole += len(chunk)
        else:
            if hole:
                stream.sendHole(hole)
                hole = 0
            _send_all(stream, memoryview(chunk))
        transfer.done += len(chunk)
    if hole:
        stream.sendHole(hole)


def _send_all(stream: Any, data: memoryview) -> None:
    while data:
        sent = stream.send(bytes(data[:MESSAGE_BYTES]))
        data = data[sent:]


def _receive(stream: Any, target: BinaryIO, transfer: Transfer) -> None:
    while chunk := stream.recv(MESSAGE_BYTES):
        if transfer.stop:
            raise _Stopped
        target.write(chunk)
        transfer.done += len(chunk)


def _receive_sparse(stream: Any, target: BinaryIO, transfer: Transfer) -> None:
    at_hole = -3  # virStreamRecvFlags
    while True:
        if transfer.stop:
            raise _Stopped
        chunk = stream.recvFlags(MESSAGE_BYTES, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
        if chunk == at_hole:
            transfer.done += stream.recvHole()
            target.seek(transfer.done)
            target.truncate(transfer.done)
        elif chunk:
            target.write(chunk)
            transfer.done += len(chunk)
        else:
            return
