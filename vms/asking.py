"""Workers are asked to look at something for the next time; nobody who looks at a page waits."""

from __future__ import annotations

import logging
from uuid import UUID

from celery import current_app
from django.core.cache import cache
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

EXPIRES_S = 60


def ask(task: str, uuid: UUID, *, every_s: int) -> bool:
    """Unless it has been asked within ``every_s``. Never raises, never waits."""
    try:
        if cache.add(f"{task}:{every_s}:{uuid}", 1, every_s):
            current_app.send_task(task, [str(uuid)], queue="quick", expires=EXPIRES_S, retry=False)
            return True
    except (RedisError, OperationalError, OSError) as error:
        log.info("%s is not asked, the broker does not answer: %s", task, error)
    return False
