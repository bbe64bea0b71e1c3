"""Messages that tell a worker to look at a job. They may be lost, late or doubled: the row counts.

Sending never fails a request: with the broker away the job waits in its row, and the reconciler
sends the hint again.
"""

from __future__ import annotations

import logging
import time
from uuid import UUID

from celery import current_app
from django.db import transaction

logger = logging.getLogger(__name__)

# After a failed send the next ones are skipped this long: a request must not wait for a broker
# that is away.
PAUSE_AFTER_FAILURE_S = 3.0
# A message for later lies in some worker's memory until then; longer waits are the reconciler's.
LONGEST_COUNTDOWN_S = 30.0

_away_until = 0.0


def send(job_id: UUID | str, queue: str, *, countdown_s: float = 0) -> bool:
    """Send now; False if the broker did not take it."""
    global _away_until  # noqa: PLW0603 - one breaker for the process
    if time.monotonic() < _away_until:
        return False
    try:
        current_app.send_task(
            "jobs.run",
            args=[str(job_id)],
            queue=queue,
            countdown=countdown_s or None,
            ignore_result=True,
            retry=False,
        )
    except Exception as error:  # noqa: BLE001 - each broker's client has errors of its own
        if not _away_until:
            logger.warning("the broker does not answer, jobs wait for it: %s", error)
        _away_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
        return False
    if _away_until:
        logger.info("the broker answers again")
    _away_until = 0.0
    return True


def send_on_commit(job_id: UUID | str, queue: str, *, countdown_s: float = 0) -> None:
    if countdown_s > LONGEST_COUNTDOWN_S:
        return

    def deliver() -> None:
        send(job_id, queue, countdown_s=countdown_s)

    transaction.on_commit(deliver)
