"""Calls that must end: libvirt's have no time-out of their own.

Keepalive ends a call on a connection that died (after 20 s), but not one that a living daemon
never answers (a stuck NFS pool, a stopped process behind a unix socket at connect time). So each
call runs in a thread of its own (about 0.1 ms), and the caller waits with a deadline. A call
that never comes back costs one sleeping daemon thread, not a worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Call(Generic[T]):
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[[], T], name: str = "libvirt-call") -> None:
        self._function = function
        self._done = threading.Event()
        self._result: T
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            self._error = error
        finally:
            self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """True when it has ended, however."""
        return self._done.wait(timeout_s)

    def result(self) -> T:
        """What it returned or raised. Only after ``wait`` said True."""
        if self._error is not None:
            raise self._error
        return self._result
