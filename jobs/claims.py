"""Whose a job is: the claim, its fence, and the lease that a heartbeat keeps.

A claim is one UPDATE that raises ``attempt``. Every later write of that worker is conditional on
its attempt, in one transaction with what it writes, so the row lock puts a late write of a lost
worker either before the next claim or nowhere.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from jobs.errors import LeaseLost
from jobs.models import Job, Slot, Step, db_time

logger = logging.getLogger(__name__)

# After this share of the lease without a renewal the worker kills its subprocesses and stops at
# the next chance; after the second it kills itself, if it is a worker's child.
LET_GO_AT = 0.7
DIE_AT = 0.9
RENEW_AGAIN_S = 1.0
# A step that a deadline should have ended and that does not come back is ended with its process.
DEADLINE_GRACE_S = 30.0


def worker_name() -> str:
    return f"{socket.gethostname()[:48]}:{os.getpid()}"


@dataclass(kw_only=True)
class Claim:
    job: Job
    attempt: int
    steps: dict[str, Step]
    read_at: datetime  # the database's clock at the claim
    # On this process's monotonic clock; read before the claim, so never later than the truth.
    lease_ends: float
    deadline_at: float | None = None
    unsaved: dict[str, Any] = field(default_factory=dict)  # goes along with the next write
    lost: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def write(self, **changes: Any) -> Iterator[None]:
        """One transaction that changes the job (``changes``) and what the body writes, if the
        claim still holds. Raises ``LeaseLost``."""
        with transaction.atomic():
            ours = Job.objects.active().filter(pk=self.job.pk, attempt=self.attempt)
            if not ours.update(**self.unsaved, **changes):
                self.lost.set()
                raise LeaseLost
            yield
        self.unsaved.clear()

    def check(self) -> None:
        if self.lost.is_set():
            raise LeaseLost


# Raw, because building this with the ORM takes longer than all the rest between a hint and the
# first step (``benchmarks/queue_latency.py``). ``{now}`` is the database's clock, as ``db_time``.
_CLAIM = """
    UPDATE jobs_job SET
        state = CASE WHEN state = 'queued' THEN 'running' ELSE state END,
        attempt = attempt + 1,
        retries = retries + CASE WHEN state <> 'queued' AND worker <> '' THEN 1 ELSE 0 END,
        worker = %(worker)s,
        wake_requested = FALSE,
        lease_until = {lease},
        started_at = COALESCE(started_at, {now})
    WHERE id = %(id)s AND (
        state = 'queued'
        OR (state IN ('running', 'compensating') AND lease_until <= {now})
    )
    RETURNING *
"""
_STEPS = "SELECT * FROM jobs_step WHERE job_id = %(id)s"
_CLOCKS = {
    "postgresql": {
        "now": "STATEMENT_TIMESTAMP()",
        "lease": "STATEMENT_TIMESTAMP() + %(lease_s)s * INTERVAL '1 second'",
    },
    "sqlite": {
        "now": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW')",
        "lease": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', %(lease_s)s || ' seconds')",
    },
}


def claim(job_id: UUID | str) -> Claim | None:
    """Make the job ours, unless somebody has it or it is over.

    One UPDATE of a row that ``JobQuerySet.claimable`` would give.
    """
    started = time.monotonic()
    values = {
        "id": Job._meta.pk.get_db_prep_value(job_id, connection),
        "worker": worker_name(),
        "lease_s": settings.JOB_LEASE_S,
    }
    with transaction.atomic():
        taken = list(Job.objects.raw(_CLAIM.format(**_CLOCKS[connection.vendor]), values))
        if not taken:
            return None
        (job,) = taken
        steps = {step.key: step for step in Step.objects.raw(_STEPS, values)}
    lease_until: datetime = vars(job)["lease_until"]  # never null on a claimed row
    return Claim(
        job=job,
        attempt=job.attempt,
        steps=steps,
        read_at=lease_until - timedelta(seconds=settings.JOB_LEASE_S),
        lease_ends=started + settings.JOB_LEASE_S,
    )


def renew(held: Claim) -> bool:
    """Keep the job and its slots for another lease; False if it is no longer ours."""
    until = db_time(settings.JOB_LEASE_S)
    ours = Job.objects.active().filter(pk=held.job.pk, attempt=held.attempt)
    if not ours.update(lease_until=until):
        return False
    Slot.objects.filter(job_id=held.job.pk).update(lease_until=until)
    return True


class Heartbeat:
    """Renews the lease from a thread with its own database connection, while a step blocks.

    A second thread watches the clock alone: a renewal may itself hang on a database that does
    not answer, and the lease must not end with our programs still writing.
    """

    def __init__(self, held: Claim, *, let_go: Callable[[], None], disposable: bool) -> None:
        self._held = held
        self._let_go = let_go
        self._disposable = disposable
        self._over = threading.Event()
        self._watching = False

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._renew, name="job-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()

    def _renew(self) -> None:
        held = self._held
        pause = float(settings.JOB_HEARTBEAT_S)
        used = False
        try:
            while not self._over.wait(pause):
                self._watch()
                used = True
                started = time.monotonic()
                try:
                    ours = renew(held)
                except DatabaseError as error:
                    logger.warning("job %s: the lease was not renewed: %s", held.job.pk, error)
                    connection.close()
                    pause = RENEW_AGAIN_S
                    continue
                if not ours:
                    self._lose()
                    return
                held.lease_ends = started + settings.JOB_LEASE_S
                pause = float(settings.JOB_HEARTBEAT_S)
        finally:
            if used:
                connection.close()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._guard, name="job-lease", daemon=True).start()

    def _guard(self) -> None:
        lease_s = float(settings.JOB_LEASE_S)
        while not self._over.wait(min(1.0, lease_s / 20)):
            now = time.monotonic()
            left = self._held.lease_ends - now
            if left < lease_s * (1 - LET_GO_AT):
                self._lose()
            overdue = (
                self._held.deadline_at is not None
                and now > self._held.deadline_at + DEADLINE_GRACE_S
            )
            if left < lease_s * (1 - DIE_AT) or overdue:
                self._die("the lease ends" if not overdue else "the deadline is long past")
                return

    def _lose(self) -> None:
        self._held.lost.set()
        self._let_go()
        self._watch()

    def _die(self, why: str) -> None:
        self._lose()
        if not self._disposable or self._over.is_set():
            return
        logger.error("job %s: this worker process ends itself: %s", self._held.job.pk, why)
        os.kill(os.getpid(), signal.SIGKILL)
