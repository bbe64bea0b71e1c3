"""Places for heavy work on a host, as leased rows: who comes first is served first.

How many a host has of a kind is its field ``<kind>_slots`` (``copy_slots``), one without it. A
job without a place parks as ``slot:<kind>:<position>`` and is woken when one becomes free. Work
between two hosts needs a place on both, and takes none before it has both.
"""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from jobs import hints
from jobs.models import HostRow, Job, JobQuerySet, Slot, db_time

POLL_S = 10.0  # for a place whose holder died: its lease passes without a wake-up
# A waiter whose resume time passed this long ago has no worker; it does not hold up the others.
WAITER_STALE_S = 60.0


def waiting_for(kind: str, position: int) -> str:
    return f"slot:{kind}:{position}"


def acquire(job: Job, kind: str, *also: HostRow) -> int:
    """0: the job has a place on its host, and on each of ``also``, now. Otherwise how many are
    before it, itself included."""
    # In the order of ids: two that go to and fro must not wait for each other.
    hosts = sorted((host for host in (job.host, *also) if host is not None), key=lambda h: h.pk)
    with transaction.atomic():
        for host in hosts:
            if position := _acquire_on(host, job, kind):
                Slot.objects.filter(job=job, kind=kind).update(job=None, lease_until=None)
                return position
    return 0


def _acquire_on(host: HostRow, job: Job, kind: str) -> int:
    limit = max(1, int(getattr(host, f"{kind}_slots", 1)))
    until = db_time(settings.JOB_LEASE_S)
    if Slot.objects.filter(job=job, kind=kind, host_id=host.pk).update(lease_until=until):
        return 0
    free = _free(host.pk, kind, limit)
    ahead = _ahead(job, host.pk, kind)
    if ahead < len(free):
        for slot_id in free:
            if Slot.objects.filter(_is_free(), pk=slot_id).update(job=job, lease_until=until):
                return 0
    return max(1, ahead - len(free) + 1)


def release(job: Job) -> None:
    """Give back what the job holds and wake who waits longest; in the caller's transaction."""
    held = list(Slot.objects.filter(job_id=job.pk).values_list("host_id", "kind"))
    if not held:
        return
    Slot.objects.filter(job_id=job.pk).update(job=None, lease_until=None)
    for host_id, kind in held:
        wake_next(host_id, kind)


def release_dead() -> None:
    """Free the places of jobs that are over or whose worker is gone."""
    dead = Slot.objects.filter(Q(job__isnull=False), Q(lease_until__lte=db_time()))
    for slot in list(dead):
        with transaction.atomic():
            if Slot.objects.filter(pk=slot.pk, lease_until__lte=db_time()).update(
                job=None, lease_until=None
            ):
                wake_next(slot.host_id, slot.kind)


def wake_next(host_id: int, kind: str) -> None:
    first = _waiters(host_id, kind).order_by("created_at", "pk").first()
    if first is not None:
        Job.objects.parked().filter(pk=first.pk).update(lease_until=db_time())
        hints.send_on_commit(first.pk, first.queue)


def _is_free() -> Q:
    return Q(job__isnull=True) | Q(lease_until__lte=db_time())


def _free(host_id: int, kind: str, limit: int) -> list[int]:
    rows = Slot.objects.filter(host_id=host_id, kind=kind, number__lt=limit)
    missing = set(range(limit)) - set(rows.values_list("number", flat=True))
    if missing:
        Slot.objects.bulk_create(
            [Slot(host_id=host_id, kind=kind, number=number) for number in sorted(missing)],
            ignore_conflicts=True,
        )
    return list(rows.filter(_is_free()).order_by("number").values_list("pk", flat=True))


def _waiters(host_id: int, kind: str) -> JobQuerySet:
    return Job.objects.filter(
        host_id=host_id,
        state=Job.State.RUNNING,
        waiting_for__startswith=f"slot:{kind}:",
        lease_until__gt=db_time(-WAITER_STALE_S),
    )


def _ahead(job: Job, host_id: int, kind: str) -> int:
    earlier = Q(created_at__lt=job.created_at) | Q(created_at=job.created_at, pk__lt=job.pk)
    return _waiters(host_id, kind).filter(earlier).exclude(pk=job.pk).count()
