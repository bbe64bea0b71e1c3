"""A domain's serial line through libvirt (``virDomainOpenConsole``). What comes from it is hostile.

The event loop's thread reads: a reader that waits costs no thread, and what the guest writes is
always taken at once, because libvirt's client keeps without bound what nobody takes from it. The
receiver bounds what it keeps. Each line has a connection of its own: when a guest does not read,
the daemon stops reading that connection, and nobody else's calls may stand behind it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import deadlines, eventloop
from hosts.virt.connection import Connection
from hosts.virt.errors import OperationTimeout, Unsupported, VirtError
from hosts.virt.protocol import Ended, Receive

log = logging.getLogger("kvmweb.virt")

READ_BYTES = 64 * 1024
# Then other streams and keepalive get the event loop's thread; libvirt calls again at once.
READS_PER_TURN = 16
WRITE_BYTES = 4096
WRITE_TIMEOUT_S = 15.0
FULL_WAIT_S = 0.05
CLOSE_WAIT_S = 1.0
NOTHING_NOW = -2  # virStreamRecv and virStreamSend on a non-blocking stream


class LibvirtLine:
    """See ``hosts.virt.protocol.ConsoleLine``."""

    def __init__(self, uri: str, uuid: UUID, receive: Receive, ended: Ended) -> None:
        """WrongState: it is off. ConsoleInUse: somebody else reads it. No FORCE: a reader is never
        thrown out, be it an admin's ``virsh console`` or another process of this site."""
        if not eventloop.ensure_running():
            raise Unsupported("this process has no libvirt events")
        self._uuid = uuid
        self._receive = receive
        self._ended = ended
        self._lock = threading.Lock()
        self._over = False
        self._stream: Any = None
        self._own = Connection(uri)
        self._own.on_close(lambda _why: self._end())
        try:
            self._own.call(self._open)
        except BaseException:
            self._over = True
            self._own.close()
            raise

    def write(self, data: bytes) -> None:
        try:
            self._own.call(lambda _conn: self._send(data), WRITE_TIMEOUT_S + 1)
        except VirtError:
            self._end()  # its connection is given up with the call
            raise

    def close(self) -> None:
        with self._lock:
            self._over = True
            stream, self._stream = self._stream, None
        if stream is not None:
            # In a thread of its own: saying good-bye to a peer that hangs may hang.
            deadlines.Call(lambda: self._shut(stream), name="libvirt-console").wait(CLOSE_WAIT_S)

    # --- private ------------------------------------------------------------------------------

    def _open(self, conn: Any) -> None:
        dom = conn.lookupByUUIDString(str(self._uuid))
        stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        dom.openConsole(None, stream, 0)
        self._stream = stream
        stream.eventAddCallback(
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_HANGUP
            | libvirt.VIR_STREAM_EVENT_ERROR,
            self._happened,
            None,
        )

    def _send(self, data: bytes) -> None:
        end = time.monotonic() + WRITE_TIMEOUT_S
        while data:
            stream = self._stream
            if stream is None:
                return
            sent = stream.send(data[:WRITE_BYTES])
            if sent == NOTHING_NOW:
                if time.monotonic() > end:
                    raise OperationTimeout("the machine does not read its serial line")
                time.sleep(FULL_WAIT_S)
                continue
            data = data[sent:]

    def _shut(self, stream: Any) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            stream.eventRemoveCallback()
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        self._own.close()

    def _end(self) -> None:
        """Tell once that nothing comes any more."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._ended()

    # --- the event loop's thread ----------------------------------------------------------------

    def _happened(self, stream: Any, events: int, _opaque: object) -> None:
        if self._over:
            return
        over = bool(events & (libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR))
        if events & libvirt.VIR_STREAM_EVENT_READABLE:
            over = self._read(stream) or over
        if over:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventUpdateCallback(0)  # or the loop would spin on the hang-up
            self._end()

    def _read(self, stream: Any) -> bool:
        """Deliver what is there. True: the stream has ended."""
        for _ in range(READS_PER_TURN):
            try:
                data = stream.recv(READ_BYTES)
            except libvirt.libvirtError:
                return True
            if data == NOTHING_NOW:
                return False
            if not data:
                return True
            self._receive(data)
        return False
