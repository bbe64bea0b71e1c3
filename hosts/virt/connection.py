"""One libvirt connection: opened when first needed, bounded, re-opened when it broke.

Time-outs (seconds): opening 12; a call 15, or 60 where the host has real work to do (start, define,
pools). A call that is overdue is followed by a question on a new connection, which any living
daemon answers at once: no answer within 3 s means HostUnreachable, an answer OperationTimeout.
Beside that, keepalive (5 s, 3 times) breaks the calls of a connection whose other end is gone.

One call at a time: with several threads inside one connection, libvirt 9.0's client forgets to
wake all but one of them when keepalive ends it, and then uses freed memory. Long work (copies,
streams) takes a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
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
CLOSE_WAIT_S = 1.0
# How often one that waits for its turn looks whether the connection is still the right one.
TURN_S = 0.5
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3

# Every open virConnect of this process. A child that inherits one must never let it be collected:
# its destructor would say good-bye on the parent's socket.
_kept: set[Any] = set()


class _Opened:
    """A ``virConnect`` and whose turn it is."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.turn = threading.Lock()  # taken by the caller, given back by the call's own thread
        self.unreachable = False
        self._abandoned = False
        self._lock = threading.Lock()

    def run(self, function: Callable[[Any], T]) -> T:
        try:
            with translated():
                return function(self.conn)
        finally:
            with self._lock:
                self.turn.release()
                last = self._abandoned
            if last:
                _let_go(self.conn)

    def abandon(self) -> None:
        """Let go of it now, or when the call that is inside comes back."""
        with self._lock:
            if self._abandoned:
                return
            self._abandoned = True
            inside = self.turn.locked()
        if not inside:
            # In a thread of its own: saying good-bye to a peer that hangs may hang.
            deadlines.Call(lambda: _let_go(self.conn), name="libvirt-close").wait(CLOSE_WAIT_S)


class Connection:
    """Thread-safe. ``uri`` comes from ``hosts.virt.uri.build`` or from a test."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
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

    def call(self, function: Callable[[Any], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """``function(virConnect)``, bounded, its libvirt errors translated."""
        deadline = time.monotonic() + timeout_s
        opened = self._turn(deadline)
        call = deadlines.Call(lambda: opened.run(function))
        if not call.wait(max(deadline - time.monotonic(), 0)):
            raise self._overdue(opened, timeout_s)
        try:
            return call.result()
        except HostUnreachable:
            opened.unreachable = True
            self._drop(opened)
            raise

    def start(self, function: Callable[[Any], T]) -> deadlines.Call[T]:
        """The same without an end: for long work, on a connection of its own, that the caller
        looks after. HostUnreachable when there is no connection."""
        opened = self._turn(time.monotonic() + CALL_TIMEOUT_S)
        return deadlines.Call(lambda: opened.run(function), name="libvirt-work")

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, None
            mine = self._pid == os.getpid()
        if opened is not None and mine:
            opened.abandon()

    # --- private ------------------------------------------------------------------------------

    def _turn(self, deadline: float) -> _Opened:
        """The open connection, with the turn taken."""
        while True:
            opened = self._get()
            if opened.turn.acquire(timeout=TURN_S):
                if opened is self._opened:
                    return opened
                opened.turn.release()
            if opened.unreachable:
                raise HostUnreachable("another call found no answer")
            # The one before is being judged just now: wait for the verdict.
            if time.monotonic() >= deadline + ALIVE_TIMEOUT_S + TURN_S:
                raise OperationTimeout("another call takes too long")

    def _get(self) -> _Opened:
        if self._pid != os.getpid():  # the parent's, and its lock perhaps held: left alone
            self._lock = threading.Lock()
            self._opened, self._pid = None, os.getpid()
        with self._lock:
            if self._opened is not None and not self._opened.conn.isAlive():
                self._opened.abandon()
                self._opened = None
            if self._opened is None:
                self._opened = _Opened(self._open(OPEN_TIMEOUT_S))
            return self._opened

    def _overdue(self, opened: _Opened, timeout_s: float) -> HostUnreachable | OperationTimeout:
        """The error for a call that did not come back: is it the host, or the call?"""
        try:
            _let_go(self._open(ALIVE_TIMEOUT_S))
        except HostUnreachable:
            opened.unreachable = True
            return HostUnreachable(f"no answer within {timeout_s:g} s")
        finally:
            self._drop(opened)
        return OperationTimeout(f"not done within {timeout_s:g} s")

    def _drop(self, opened: _Opened) -> None:
        """Forget it, so that the next call opens a new one."""
        with self._lock:
            if self._opened is opened:
                self._opened = None
        opened.abandon()

    def _open(self, timeout_s: float) -> Any:
        with_events = eventloop.ensure_running()
        uri = self.uri
        opening = deadlines.Call(lambda: self._dial(uri, with_events=with_events))
        if not opening.wait(timeout_s):
            raise HostUnreachable(f"no connection within {timeout_s:g} s")
        try:
            return opening.result()
        except libvirt.libvirtError as error:
            raw = translate(error)
            raise HostUnreachable(raw.raw, ref=raw.ref) from error

    def _dial(self, uri: str, *, with_events: bool) -> Any:
        """``openAuth`` with no way to ask: a password prompt would hang a worker."""
        conn = libvirt.openAuth(uri, [[], lambda _credentials, _opaque: -1, None], 0)
        _kept.add(conn)
        if with_events:
            # The test driver has neither. A connection that broke already will say so.
            with contextlib.suppress(libvirt.libvirtError):
                conn.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
                conn.registerCloseCallback(self._closed, None)
        return conn

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


def _let_go(conn: Any) -> None:
    """Never ``virConnectClose`` itself: what still holds a domain or stream of it would be left
    with freed memory. The binding closes it when nobody holds it; the callback is one holder."""
    with contextlib.suppress(libvirt.libvirtError):  # none was registered, or it is broken
        conn.unregisterCloseCallback()
    _kept.discard(conn)
