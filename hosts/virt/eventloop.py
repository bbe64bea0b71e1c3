"""libvirt's default event loop, in a thread of its own, once per process.

It carries events and keepalive. It must be registered before the first connection opens, and its
thread does not survive a fork. A child of a process that had registered it cannot register
again, and must not run the inherited loop, for that polls the parent's sockets: such a child has
no events and no keepalive, and relies on the deadlines of ``hosts.virt.deadlines`` alone.
"""

from __future__ import annotations

import logging
import os
import threading

import libvirt

log = logging.getLogger("kvmweb.virt")

# The loop sleeps until something happens; a timer that does nothing bounds that sleep, for a
# process without any connection.
IDLE_TICK_MS = 60_000

_lock = threading.Lock()
_registered_by: int | None = None


def ensure_running() -> bool:
    """Register the loop and start its thread. False in a child of a process that had it."""
    global _registered_by  # noqa: PLW0603 - the loop is the process's
    with _lock:
        if _registered_by is None:
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            libvirt.virEventAddTimeout(IDLE_TICK_MS, lambda _timer, _opaque: None, None)
            threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
            _registered_by = os.getpid()
        return _registered_by == os.getpid()


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception:  # noqa: PERF203
            log.exception("an event callback failed")


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's thread may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
