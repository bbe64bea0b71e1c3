"""Run jobs in this process, without a broker."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from jobs import engine
from jobs.models import Job


def pass_pause(job: Job) -> None:
    """As if the time until which it is parked were over."""
    Job.objects.parked().filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def lose_worker(job: Job) -> None:
    """As if its worker had vanished a lease ago."""
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def pass_deadline(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(deadline=F("deadline") - timedelta(days=1))


def finish(job: Job, *, pauses: int = 100) -> Job:
    """Run it to its end, skipping the pauses. Other apps' tests may use this, too."""
    for _ in range(pauses):
        engine.run(job.pk)
        job.refresh_from_db()
        if job.is_over:
            return job
        pass_pause(job)
    raise AssertionError(f"{job.kind} is still {job.state} at {job.step}: {job.waiting_for}")
