"""The watcher's sign of life, in the cache; ``/readyz`` and the hosts' pages read it."""

from __future__ import annotations

import logging
import time

from django.core.cache import cache
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

KEY = "watch.heartbeat"
KEEP_S = 300
# Older than this, nobody watches: states in the pages may be old.
STALE_AFTER_S = 20.0


def beat() -> None:
    """Never raises: without a cache the watcher goes on."""
    try:
        cache.set(KEY, time.time(), KEEP_S)
    except (RedisError, OSError) as error:
        log.debug("no heartbeat, the cache does not answer: %s", error)


def age_s() -> float | None:
    """Seconds since the last beat of any watcher; None when none is known."""
    try:
        at = cache.get(KEY)
    except (RedisError, OSError):
        return None
    return max(0.0, time.time() - at) if isinstance(at, (int, float)) else None


def is_alive() -> bool:
    age = age_s()
    return age is not None and age < STALE_AFTER_S
