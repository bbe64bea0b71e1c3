"""Ask for a job, and steer it. Each is one transaction; the caller's, where there is one."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Case, F, Q, When

from accounts import audit, policy
from accounts.errors import Busy, Conflict
from accounts.policy import Action
from jobs import endings, hints, live, registry
from jobs.models import HostRow, ImageRow, Job, Step, VMRow, db_time

if TYPE_CHECKING:
    from accounts.models import Team, User

# Pauses of the engine that an event must not cut short.
_NOT_WOKEN = Q(worker="") & (
    Q(waiting_for__startswith="slot:") | Q(waiting_for__startswith="retry")
)


def enqueue(
    kind: str,
    *,
    actor: User | None,
    target_name: str,
    vm: VMRow | None = None,
    host: HostRow | None = None,
    image: ImageRow | None = None,
    team: Team | None = None,
    params: dict[str, Any] | None = None,
    idempotency_key: str | None = None,
    deadline: datetime | None = None,
    queue: str | None = None,
    cleanup: bool = False,
) -> Job:
    """Write the job in the caller's transaction and send its hint on commit.

    The same ``idempotency_key`` gives the same job. ``Busy`` when the machine has an active job;
    one that only observes any more ends as succeeded and makes room. Without ``deadline`` the
    kind's counts from the first claim. ``queue`` overrides the kind's (a full copy is bulk work).

    Call it after the locks: whether ``actor`` may do this with ``vm`` is asked again here, so that
    who lost it while they waited is refused (NotFound, Forbidden). Not for a ``cleanup``, which
    follows from an earlier job of theirs.
    """
    spec = registry.get(kind)
    with transaction.atomic():
        if idempotency_key is not None:
            same = Job.objects.filter(idempotency_key=idempotency_key).first()
            if same is not None:
                return _same(same, kind, actor)
        if vm is not None:
            if actor is not None and spec.needs is not None and not cleanup:
                policy.require_still(actor, spec.needs, vm)
            _make_room(vm)
        try:
            with transaction.atomic():
                job = Job.objects.create(
                    kind=kind,
                    queue=queue or spec.queue,
                    actor=actor,
                    target_name=target_name,
                    vm=vm,
                    host=host or (vm.host if vm is not None else None),
                    image=image,
                    team=team or (vm.team if vm is not None else None),
                    params=params or {},
                    idempotency_key=idempotency_key,
                    deadline=deadline,
                )
        except IntegrityError as error:
            # Somebody was quicker since we looked.
            return _after_race(error, kind, actor, vm, idempotency_key)
        Step.objects.bulk_create(
            Step(job=job, index=index, key=step.key) for index, step in enumerate(spec.steps)
        )
        # The hint first: the nudges' thread would share this process's time with it.
        hints.send_on_commit(job.pk, job.queue)
        live.publish_job(job)
    return job


def active_job(vm: VMRow) -> Job | None:
    return Job.objects.active().filter(vm=vm).first()


def cancel(job: Job, *, actor: User | None) -> None:
    """Stop it and have it undone. A job that nobody began ends at once, and so does one whose
    machine works already; any other when its worker notices. ``actor`` None: the site itself."""
    if actor is not None:
        policy.require(actor, Action.JOB_CANCEL, job)
    kind = registry.find(job.kind)
    with transaction.atomic():
        endings.lock_machine(job)
        job = Job.objects.select_for_update(of=("self",)).get(pk=job.pk)
        if job.is_over:
            raise Conflict("job.already_over")
        if kind is not None and not kind.cancellable:
            raise Conflict("job.not_cancellable")
        audit.record(actor, "job.cancel", job, job=job)
        if job.state == Job.State.COMPENSATING:
            return
        if job.observing:
            endings.finish(job, Job.State.SUCCEEDED, cancel_requested=True)
        elif job.state == Job.State.QUEUED:
            endings.finish(job, Job.State.CANCELLED, cancel_requested=True)
        else:
            Job.objects.filter(pk=job.pk).update(
                cancel_requested=True,
                lease_until=Case(When(worker="", then=db_time()), default=F("lease_until")),
            )
            if not job.worker:
                hints.send_on_commit(job.pk, job.queue)
            live.publish_job(job)


def retry(job: Job, *, actor: User) -> Job:
    """Do it again with the same input, as a new job; once for each failed job."""
    policy.require(actor, Action.JOB_CANCEL, job)
    kind = registry.find(job.kind)
    with transaction.atomic():
        job = Job.objects.select_for_update(of=("self",)).get(pk=job.pk)
        if job.state not in (Job.State.FAILED, Job.State.CANCELLED):
            raise Conflict("job.not_failed")
        if job.retried_by_id is not None:
            raise Conflict("job.retried_already")
        if kind is None or kind.retry is None:
            raise Conflict("job.no_retry")
        again = kind.retry(job)
        Job.objects.filter(pk=job.pk).update(retried_by=again)
        audit.record(actor, "job.retry", job, job=again)
        live.publish_job(job)
    return again


def wake(
    *,
    vm_id: int | None = None,
    job_id: UUID | None = None,
    image_id: int | None = None,
) -> None:
    """Something that a parked job may wait for has happened: let it look now. A job that a
    worker is on looks again at its next park, so no wake-up is lost."""
    which = Q()
    for field, value in (("vm_id", vm_id), ("pk", job_id), ("image_id", image_id)):
        if value is not None:
            which &= Q(**{field: value})
    if not which:
        raise ValueError("wake whom?")
    begun = Job.objects.filter(which, state=Job.State.RUNNING).exclude(_NOT_WOKEN)
    if not begun.exists():  # most events concern nobody: no write for them
        return
    with transaction.atomic():
        if not begun.update(
            wake_requested=True,
            lease_until=Case(When(worker="", then=db_time()), default=F("lease_until")),
        ):
            return
        for pk, queue in begun.filter(worker="").values_list("pk", "queue"):
            hints.send_on_commit(pk, queue)


def _make_room(vm: VMRow) -> None:
    for _try in range(2):  # a worker may claim it between our look and its end
        active = active_job(vm)
        if active is None or (active.observing and endings.finish(active, Job.State.SUCCEEDED)):
            return
    raise _busy(active)


def _busy(job: Job | None) -> Busy:
    kind = registry.find(job.kind) if job is not None else None
    return Busy(
        "job.busy",
        name=job.target_name if job is not None else "",
        doing=kind.label if kind is not None else "",
    )


def _same(job: Job, kind: str, actor: User | None) -> Job:
    if job.kind != kind or job.actor_id != (actor.pk if actor is not None else None):
        raise Conflict("job.idempotency_reused")
    return job


def _after_race(
    error: IntegrityError, kind: str, actor: User | None, vm: VMRow | None, key: str | None
) -> Job:
    if key is not None:
        same = Job.objects.filter(idempotency_key=key).first()
        if same is not None:
            return _same(same, kind, actor)
    active = active_job(vm) if vm is not None else None
    if active is None:
        raise error
    raise _busy(active)
