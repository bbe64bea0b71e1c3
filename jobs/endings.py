"""How a job becomes final: one conditional UPDATE, its kind's callback, its slots given back."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Q

from jobs import live, registry, slots
from jobs.models import Job, Step, db_time


def finish(
    job: Job,
    state: Job.State,
    *,
    only_if: Q | None = None,
    callback: bool = True,
    **changes: Any,
) -> bool:
    """Make ``job`` final; False if its attempt or state has moved on. What the kind's callback
    raises leaves everything as it was."""
    with transaction.atomic():
        lock_machine(job)
        row = Job.objects.active().filter(only_if or Q(), pk=job.pk, attempt=job.attempt)
        if not row.update(
            state=state,
            worker="",
            waiting_for="",
            lease_until=None,
            finished_at=db_time(),
            **changes,
        ):
            return False
        Step.objects.filter(job_id=job.pk, state=Step.State.RUNNING).update(
            state=Step.State.SKIPPED, finished_at=db_time()
        )
        slots.release(job)
        over = Job.objects.select_related("vm", "team", "actor", "host", "image").get(pk=job.pk)
        kind = registry.find(job.kind)
        if kind is not None and callback:
            after = kind.on_success if state == Job.State.SUCCEEDED else kind.on_failure
            if after is not None:
                after(over)
        live.publish_job(over)
    return True


def lock_machine(job: Job) -> None:
    """Before the job's own row, as whoever acts on a machine holds it when they look at its job:
    the kind's callback writes the machine."""
    if job.vm_id is not None:
        whose = Job.objects.select_related("vm").filter(pk=job.pk, vm__isnull=False)
        whose.select_for_update(of=("vm",), no_key=True).first()
