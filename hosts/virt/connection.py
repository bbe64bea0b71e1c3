"""One libvirt connection: opened when first needed, bounded, re-opened when it broke.

Time-outs (seconds): opening 12; a call 15, or 60 where the host has real work to do (start, define,
pools). A call that is overdue is followed by a question any living daemon answers at once: no
answer within 3 s means HostUnreachable, an answer means OperationTimeout. Beside that, keepalive
(5 s, 3 times) breaks the calls of a connection whose other end is gone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from hosts.virt import deadlines, eventloop
from hosts.virt.errors import HostUnreachable, OperationTimeout
from hosts.virt.translate import translate, translated

T = TypeVar("T")

OPEN_TIMEOUT_S = 12.0
CALL_TIMEOUT_S = 15.0
WORK_TIMEOUT_S = 60.0
ALIVE_TIMEOUT_S = 3.0
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3

# Every open virConnect of this process. A child that inherits one must never let it be collected:
# its destructor would say good-bye on the parent's socket.
_kept: set[Any] = set()


class Connection:
    """Thread-safe. ``uri`` comes from ``hosts.virt.uri.build`` or from a test."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._conn: Any = None
        self._pid = os.getpid()
        self._on_close: list[Callable[[str], None]] = []

    @property
    def remote(self) -> bool:
        """On another machine: no descriptor can be passed, and no file read."""
        scheme = self.uri.split(":", 1)[0]
        return scheme.partition("+")[2] not in ("", "unix")

    def on_close(self, callback: Callable[[str], None]) -> None:
        """Called from the event loop's thread with a word when the open connection breaks."""
        self._on_close.append(callback)

    def get(self) -> Any:
        """The open ``virConnect``. HostUnreachable."""
        with self._lock:
            if self._pid != os.getpid():  # the parent's: left alone
                self._conn, self._pid = None, os.getpid()
            if self._conn is not None and not self._conn.isAlive():
                self._forget()
            if self._conn is None:
                self._conn = self._open()
            return self._conn

    def call(self, function: Callable[[Any], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """``function(virConnect)``, bounded, its libvirt errors translated."""
        conn = self.get()
        try:
            with translated():
                return deadlines.run(lambda: function(conn), timeout_s)
        except deadlines.Overdue:
            raise self.overdue(conn, timeout_s) from None
        except HostUnreachable:
            self.drop(conn)
            raise

    def overdue(self, conn: Any, timeout_s: float) -> HostUnreachable | OperationTimeout:
        """The error for a call that did not come back: is it the host, or the call?"""
        try:
            deadlines.run(conn.getLibVersion, ALIVE_TIMEOUT_S)
        except (deadlines.Overdue, libvirt.libvirtError):
            self.drop(conn)
            return HostUnreachable(f"no answer within {timeout_s:g} s")
        return OperationTimeout(f"not done within {timeout_s:g} s")

    def drop(self, conn: Any) -> None:
        """Forget a broken connection, so that the next call opens a new one."""
        with self._lock:
            if self._conn is conn:
                self._forget()

    def close(self) -> None:
        with self._lock:
            if self._conn is not None and self._pid == os.getpid():
                self._forget()

    def _forget(self) -> None:
        """Close in a thread of its own: closing a connection whose peer hangs may hang."""
        conn, self._conn = self._conn, None
        deadlines.Call(lambda: _close(conn), name="libvirt-close").wait(1)

    def _open(self) -> Any:
        with_events = eventloop.ensure_running()
        uri = self.uri
        try:
            conn = deadlines.run(lambda: _open(uri), OPEN_TIMEOUT_S)
        except deadlines.Overdue:
            raise HostUnreachable(f"no connection within {OPEN_TIMEOUT_S:g} s") from None
        except libvirt.libvirtError as error:
            raw = translate(error)
            raise HostUnreachable(raw.raw, ref=raw.ref) from error
        _kept.add(conn)
        if with_events:
            self._watch(conn)
        return conn

    def _watch(self, conn: Any) -> None:
        try:
            conn.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            conn.registerCloseCallback(self._closed, None)
        except libvirt.libvirtError as error:
            # The test driver has neither. A connection that broke already will say so.
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise translate(error) from error

    def _closed(self, _conn: Any, reason: int, _opaque: object) -> None:
        word = CLOSE_REASONS.get(reason, "error")
        for callback in self._on_close:
            callback(word)


CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "eof",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "keepalive",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "client",
}


def _open(uri: str) -> Any:
    """``openAuth`` with no way to ask: a password prompt would hang a worker."""
    return libvirt.openAuth(uri, [[], lambda _credentials, _opaque: -1, None], 0)


def _close(conn: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # none was registered
        conn.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):  # it was broken: that is why it is closed
        conn.close()
    _kept.discard(conn)
