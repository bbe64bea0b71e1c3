"""Processes say that they live; ``/readyz`` and ``/metrics`` ask when they last did.

Kept in the cache (Redis): a heartbeat is worth nothing after a restart. ``jobs.reconcile`` beats
for the worker that runs it and so for beat as well, which sent it; the watcher beats in its loop.
"""

from __future__ import annotations

import time

from django.core.cache import cache

KEPT_S = 3600
FRESH_S = 60  # the reconciler comes every 15 s, the watcher more often
PROCESSES = ("worker", "beat", "watch", "ports")


def beat(process: str) -> None:
    """One of ``PROCESSES`` is alive now. Raises what the cache raises."""
    cache.set(_key(process), time.time(), timeout=KEPT_S)


def ages_s() -> dict[str, float | None]:
    """Seconds since each process was last heard; ``None``: not within the last hour."""
    now = time.time()
    seen = cache.get_many([_key(process) for process in PROCESSES])
    return {
        process: max(0.0, now - seen[_key(process)]) if _key(process) in seen else None
        for process in PROCESSES
    }


def _key(process: str) -> str:
    return f"pulse:{process}"
