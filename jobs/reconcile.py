"""Every 15 s: make true again what a lost message, worker or host left half done.

Safe to run twice at once and never needed for what goes well. One process at a time holds the
leased lock; each part is short and stands alone, so one that fails does not stop the others.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

from celery import current_app
from django.db import DatabaseError, connection
from django.db.models import Q

from jobs import endings, errors, hints, slots
from jobs.models import Job, Lock, db_time

logger = logging.getLogger(__name__)

LOCK = "jobs.reconcile"
LOCK_S = 30  # renewed before each part; a dead holder delays the next by this at most
STALE_S = 5.0  # a hint normally arrives within milliseconds
RESEND_LIMIT = 200  # of one queue at a time; the next come 15 s later

Part = Callable[[], None]
_parts: list[Part] = []


def register_reconciler(part: Part) -> Part:
    """Have ``part`` called after the jobs' own. It must be repeatable and hold no transaction
    while it asks a hypervisor."""
    if part not in _parts:
        _parts.append(part)
    return part


def run() -> bool:
    """False: another process is at it."""
    me = f"{socket.gethostname()[:40]}:{os.getpid()}"
    if not _take_lock(me):
        return False
    try:
        for part in [fail_late, resend, slots.release_dead, *_parts]:
            _keep_lock(me)
            try:
                part()
            except DatabaseError:
                logger.exception("reconcile: %s", part.__qualname__)
                connection.close()
            except Exception:
                # Parts belong to other apps; each must get its turn.
                logger.exception("reconcile: %s", part.__qualname__)
    finally:
        Lock.objects.filter(name=LOCK, holder=me).update(holder="", lease_until=None)
    return True


def fail_late() -> None:
    """Past the deadline: a queued job ends here, a parked one is called back to end itself. One
    that a worker is on ends itself (``jobs.claims.Heartbeat`` sees to that)."""
    late = Job.objects.filter(deadline__lte=db_time())
    for job in late.filter(state=Job.State.QUEUED)[:RESEND_LIMIT]:
        endings.finish(
            job, Job.State.FAILED, only_if=Q(state=Job.State.QUEUED), error_code=errors.DEADLINE
        )
    parked = late.parked().filter(state=Job.State.RUNNING, lease_until__gt=db_time())
    for job in parked[:RESEND_LIMIT]:
        if Job.objects.parked().filter(pk=job.pk).update(lease_until=db_time()):
            hints.send(job.pk, job.queue)


def resend() -> None:
    """Send hints for jobs that wait with none: lost with a broker, or with a worker's lease.

    Only as many as the queue lacks, so that an hour of waiting behind copies does not fill it.
    """
    stale = Job.objects.claimable().exclude(
        state=Job.State.QUEUED, created_at__gt=db_time(-STALE_S)
    )
    for queue in stale.values_list("queue", flat=True).distinct().order_by():
        waiting = stale.filter(queue=queue)
        missing = waiting.count() - _hints_in(queue)
        oldest = waiting.order_by("created_at").values_list("pk", flat=True)
        for job_id in oldest[: min(max(missing, 0), RESEND_LIMIT)]:
            if not hints.send(job_id, queue):
                return


def _hints_in(queue: str) -> int:
    """How many messages the broker holds; 0 if it cannot say."""
    try:
        with current_app.connection_for_write() as broker:
            declared = current_app.amqp.queues[queue].bind(broker.default_channel).queue_declare()
            return int(getattr(declared, "message_count", 0))
    except Exception as error:  # noqa: BLE001 - each broker's client has errors of its own
        logger.info("reconcile: the broker does not say how long %s is: %s", queue, error)
        return 0


def _take_lock(me: str) -> bool:
    Lock.objects.get_or_create(name=LOCK)
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=db_time())
    taken = Lock.objects.filter(free, name=LOCK).update(holder=me, lease_until=db_time(LOCK_S))
    return bool(taken)


def _keep_lock(me: str) -> None:
    Lock.objects.filter(name=LOCK, holder=me).update(lease_until=db_time(LOCK_S))
