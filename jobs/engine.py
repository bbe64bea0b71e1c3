"""Runs one job: claims it, does its steps, and undoes them when it fails or is cancelled.

    queued ──> running ──> succeeded
                  │  ^ └── parked: no worker until ``lease_until`` or until woken
                  v
            compensating ──> failed | cancelled

A worker may die anywhere. What it had recorded stands; the step that it was in runs again, which
``check / do / undo`` allow. See ``docs/contributor/jobs.md``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models import Case, Q, When
from django.db.models.functions import Coalesce

from jobs import endings, errors, failpoints, hints, live, registry, slots, subprocesses
from jobs.claims import LET_GO_AT, Claim, Heartbeat, claim
from jobs.context import JobContext
from jobs.errors import CancelRequested, DeadlinePassed, Failure, LeaseLost
from jobs.models import Job, Step, db_time
from jobs.registry import JobKind, Park, StepSpec

logger = logging.getLogger(__name__)

# An undo that fails is tried again for about a quarter of an hour, then left to quarantine.
UNDO_RETRIES = 20
# After one undo was given up the others get this many more tries: the host is probably gone.
UNDO_RETRIES_LEFT = 2
LONGEST_PAUSE_S = 60.0
SHORTEST_PARK_S = 0.2
RETRY_WRITE_S = 0.5
BETWEEN_STEPS_S = 0.1  # the oldest knowledge of a cancel with which a step may begin
RETRYING = "retry"

NOTHING_TO_UNDO = (Step.State.PENDING, Step.State.SKIPPED, Step.State.UNDONE)

# A worker's child may be killed when it lost its lease; a test's or a shell's process may not.
disposable = False
worker_pid = 0  # of the process that makes such children

T = TypeVar("T")


def run(job_id: UUID | str) -> bool:
    """Take the job as far as it goes now. False: it was not for us (over, or someone has it)."""
    held = claim(job_id)
    if held is None:
        return False
    kind = registry.find(held.job.kind)
    if kind is None:
        params = {"kind": held.job.kind}
        endings.finish(
            held.job, Job.State.FAILED, error_code=errors.UNKNOWN_KIND, error_params=params
        )
        return True
    failpoints.hit(f"{kind.kind}/claim:after")
    group = subprocesses.Group()
    with Heartbeat(held, let_go=group.kill_all, disposable=disposable):
        try:
            _Run(held, kind, group).go()
        except LeaseLost:
            logger.warning("job %s: attempt %d was taken over", held.job.pk, held.attempt)
    return True


def pause_s(retries: int) -> float:
    """How long to wait before the next try: 2, 4, 8... seconds, spread so that the jobs of a
    host that came back do not all start at once."""
    base: float = min(LONGEST_PAUSE_S, 2.0**retries)
    return base * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


class _Run:
    def __init__(self, held: Claim, kind: JobKind, group: subprocesses.Group) -> None:
        self.held = held
        self.job = held.job
        self.kind = kind
        self.ctx = JobContext(held, group)
        self._set_deadline()

    def go(self) -> None:
        if self.job.state == Job.State.COMPENSATING:
            self._compensate()
        else:
            self._forward()

    # --- forward --------------------------------------------------------------------------
    def _forward(self) -> None:
        then: Callable[[], None]
        try:
            if self.job.cancel_requested:
                raise CancelRequested
            if self.job.retries > self.kind.max_retries:
                then = partial(self._give_up, Job.State.FAILED, Failure(code=errors.WORKER_LOST))
            else:
                for index, spec in enumerate(self.kind.steps):
                    self._step(index, spec)
                then = partial(self._finish, Job.State.SUCCEEDED)
        except Park as park:
            then = partial(self._park, park)
        except CancelRequested:
            then = partial(self._give_up, Job.State.CANCELLED, None)
        except DeadlinePassed:
            then = partial(self._give_up, Job.State.FAILED, Failure(code=errors.DEADLINE))
        except Exception as error:  # noqa: BLE001 - a step may raise anything; all is translated
            then = self._after_error(error)
        then()

    def _step(self, index: int, spec: StepSpec) -> None:
        row = self.held.steps.get(spec.key)
        if row is not None and row.state in (Step.State.DONE, Step.State.SKIPPED):
            return
        self.ctx.checkpoint(max_age_s=BETWEEN_STEPS_S)
        new = row is None or row.state == Step.State.PENDING
        if new and spec.optional is not None and not spec.optional(self.ctx):
            self._lasting(partial(self._record, index, spec, Step.State.SKIPPED))
            return
        if new or self.job.step != spec.key or self.held.unsaved:
            self._lasting(partial(self._begin, index, spec))
        self.ctx.step_begins()
        if spec.slot:
            self._take_slot(spec)
        failpoints.hit(f"{self.kind.kind}/{spec.key}:before-do")
        if spec.check is None or not spec.check(self.ctx):
            spec.do(self.ctx)
        failpoints.hit(f"{self.kind.kind}/{spec.key}:after-do")
        self._lasting(partial(self._record, index, spec, Step.State.DONE))

    def _take_slot(self, spec: StepSpec) -> None:
        also = spec.slot_also(self.ctx) if spec.slot_also else ()
        position = slots.acquire(self.job, spec.slot, *also)
        if position:
            raise Park(
                slots.POLL_S,
                waiting_for=slots.waiting_for(spec.slot, position),
                stops_clock=True,
            )
        if self.job.waiting_for:
            self._lasting(partial(self._save, waiting_for=""))

    def _after_error(self, error: Exception) -> Callable[[], None]:
        failure = errors.translate(error, where=f"job {self.job.pk} step {self.job.step}")
        if failure.transient and self.job.retries < self.kind.max_retries:
            return partial(self._try_again, failure)
        return partial(self._give_up, Job.State.FAILED, failure)

    # --- backward -------------------------------------------------------------------------
    def _give_up(self, outcome: Job.State, failure: Failure | None) -> None:
        """Stop going forward. What exists and works already stays: then this is a success."""
        if self.job.observing:
            self.job.warning_code = failure.code if failure else ""
            if failure:
                self.held.unsaved.update(
                    warning_code=failure.code,
                    error_params=failure.params,
                    error_ref=failure.ref,
                )
            self._lasting(partial(self._mark_failed, failure))
            self._finish(Job.State.SUCCEEDED)
            return
        self.held.unsaved.update(
            state=Job.State.COMPENSATING, outcome_wanted=outcome, retries=0, waiting_for=""
        )
        if failure is not None:
            self.held.unsaved.update(
                error_code=failure.code, error_params=failure.params, error_ref=failure.ref
            )
        self._lasting(partial(self._mark_failed, failure))
        self.job.state, self.job.outcome_wanted, self.job.retries = (
            Job.State.COMPENSATING,
            outcome,
            0,
        )
        self._compensate()

    def _compensate(self) -> None:
        self.ctx.compensating = True
        for spec in reversed(self.kind.steps):
            row = self.held.steps.get(spec.key)
            if row is None or row.state in NOTHING_TO_UNDO or "cleanup" in row.note:
                continue
            if spec.undo is None:
                continue
            if not self._undo(spec, row, spec.undo):
                return
        self._finish(Job.State(self.job.outcome_wanted or Job.State.FAILED))

    def _undo(self, spec: StepSpec, row: Step, undo: Callable[[JobContext], None]) -> bool:
        """True: undone, or given up after many tries. False: parked, to be tried again."""
        worn_out = self.job.retries > UNDO_RETRIES  # its workers keep vanishing in it
        try:
            if not worn_out:
                if self.job.step != spec.key:
                    self._lasting(partial(self._save, step=spec.key, progress=None))
                    self.job.step = spec.key
                failpoints.hit(f"{self.kind.kind}/{spec.key}:before-undo")
                undo(self.ctx)
                failpoints.hit(f"{self.kind.kind}/{spec.key}:after-undo")
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be undone in the end
            failure = errors.translate(error, where=f"job {self.job.pk} undo of {spec.key}")
            if self.job.retries < UNDO_RETRIES:
                self._try_again(failure)
                return False
            worn_out = True
        self._lasting(partial(self._record_undo, row, given_up=worn_out))
        return True

    # --- writes ---------------------------------------------------------------------------
    def _begin(self, index: int, spec: StepSpec) -> None:
        changes: dict[str, Any] = {"step": spec.key, "progress": None}
        if spec.observing:
            changes["observing"] = True
        with self.held.write(**changes):
            row = self.held.steps.get(spec.key)
            if row is None:
                row = Step.objects.create(
                    job_id=self.job.pk,
                    index=index,
                    key=spec.key,
                    state=Step.State.RUNNING,
                    started_at=db_time(),
                )
            else:
                Step.objects.filter(pk=row.pk).update(
                    state=Step.State.RUNNING, started_at=Coalesce("started_at", db_time())
                )
            live.publish_job(self.job)
        self.held.steps[spec.key] = row
        row.state = Step.State.RUNNING
        self.job.step = spec.key
        self.job.progress = None
        self.job.observing = self.job.observing or spec.observing

    def _record(self, index: int, spec: StepSpec, state: Step.State) -> None:
        """The step is over; its retries are forgotten, its slot is free."""
        with self.held.write(retries=0, waiting_for="", progress=None):
            row = self.held.steps.get(spec.key)
            if row is None:
                row = Step.objects.create(
                    job_id=self.job.pk, index=index, key=spec.key, state=state
                )
            else:
                Step.objects.filter(pk=row.pk).update(state=state, finished_at=db_time())
            if spec.slot:
                slots.release(self.job)
        self.held.steps[spec.key] = row
        row.state = state
        self.job.retries, self.job.waiting_for, self.job.progress = 0, "", None

    def _mark_failed(self, failure: Failure | None) -> None:
        """The step that was under way carries the reason, also after it is undone."""
        code = failure.code if failure else "job.cancelled"
        params = failure.params if failure else {}
        with self.held.write(progress=None):
            running = Step.objects.filter(job_id=self.job.pk, state=Step.State.RUNNING)
            running.update(
                state=Step.State.FAILED,
                finished_at=db_time(),
                note={**params, "code": code, "failed": True},
            )
            slots.release(self.job)
            live.publish_job(self.job)
        for row in self.held.steps.values():
            if row.state == Step.State.RUNNING:
                row.state = Step.State.FAILED
                row.note = {**params, "code": code, "failed": True}

    def _record_undo(self, row: Step, *, given_up: bool) -> None:
        if given_up:
            row.note = {**row.note, "cleanup": "given_up"}
            retries = UNDO_RETRIES - UNDO_RETRIES_LEFT
            changes = {"warning_code": errors.CLEANUP_INCOMPLETE, "retries": retries}
            self.job.warning_code = errors.CLEANUP_INCOMPLETE
        else:
            row.state = Step.State.UNDONE
            retries = UNDO_RETRIES - UNDO_RETRIES_LEFT if self.job.warning_code else 0
            changes = {"retries": retries}
        with self.held.write(waiting_for="", **changes):
            Step.objects.filter(pk=row.pk).update(
                state=row.state, note=row.note, finished_at=db_time()
            )
            live.publish_job(self.job)
        self.job.retries = retries

    def _save(self, **changes: Any) -> None:
        with self.held.write(**changes):
            live.publish_job(self.job)

    def _try_again(self, failure: Failure) -> None:
        retries = self.job.retries + 1
        self.held.unsaved.update(retries=retries)
        self._park(Park(pause_s(retries), waiting_for=f"{RETRYING}:{failure.code}"))

    def _park(self, park: Park) -> None:
        """Give the worker back. A wake-up or a cancel that came meanwhile ends the park now."""
        seconds = max(SHORTEST_PARK_S, park.seconds)
        if park.stops_clock and self.job.deadline is not None:
            self.held.unsaved["deadline"] = self.job.deadline + timedelta(seconds=seconds)
        changes: dict[str, Any] = {"waiting_for": park.waiting_for[:64], "worker": ""}
        if self.ctx.fraction is not None:
            changes["progress"] = self.ctx.fraction
        self._lasting(partial(self._write_park, seconds, changes))

    def _write_park(self, seconds: float, changes: dict[str, Any]) -> None:
        hurry = Q(cancel_requested=True, state=Job.State.RUNNING)
        if not changes["waiting_for"].startswith(RETRYING):
            hurry |= Q(wake_requested=True)
        until = Case(When(hurry, then=db_time()), default=db_time(seconds))
        with self.held.write(lease_until=until, **changes):
            slots.release(self.job)
            now = Job.objects.claimable().filter(pk=self.job.pk).exists()
            hints.send_on_commit(self.job.pk, self.job.queue, countdown_s=0 if now else seconds)
            if any(getattr(self.job, key) != changes[key] for key in changes if key != "worker"):
                live.publish_job(self.job)

    def _finish(self, outcome: Job.State) -> None:
        """The end. A callback that fails is tried again like a step, and in the end left out: a
        job must become final."""
        failpoints.hit(f"{self.kind.kind}/final:before")
        changes: dict[str, Any] = dict(self.held.unsaved)
        failed = next((row for row in self.held.steps.values() if row.note.get("failed")), None)
        changes["step"] = failed.key if failed else self.job.step
        changes["progress"] = 1.0 if outcome == Job.State.SUCCEEDED else None
        try:
            over = self._lasting(partial(endings.finish, self.job, outcome, **changes))
        except Exception as error:  # noqa: BLE001 - the callback belongs to another app
            failure = errors.translate(error, where=f"job {self.job.pk} at its end")
            if self.job.retries < self.kind.max_retries:
                self._try_again(failure)
                return
            changes["warning_code"] = self.job.warning_code or failure.code
            changes["error_ref"] = failure.ref
            over = self._lasting(
                partial(endings.finish, self.job, outcome, callback=False, **changes)
            )
        if not over:
            raise LeaseLost

    # --- time -----------------------------------------------------------------------------
    def _set_deadline(self) -> None:
        """Counted from the first claim, not from the request: waiting for a worker is nobody's
        slowness. Judged on our clock by what is left on the database's."""
        if self.job.deadline is None:
            self.job.deadline = self.held.read_at + self.kind.deadline
            self.held.unsaved["deadline"] = self.job.deadline
        left = (self.job.deadline - self.held.read_at).total_seconds()
        if self.job.state == Job.State.RUNNING:
            self.held.deadline_at = time.monotonic() + left

    def _lasting(self, write: Callable[[], T]) -> T:
        """Do ``write``; while the database is away, again and again as long as the lease is
        good. Each write may be repeated: a second time it changes nothing, or hits the fence."""
        while True:
            try:
                return write()
            except (OperationalError, InterfaceError) as error:  # noqa: PERF203 - waiting is the point
                left = self.held.lease_ends - time.monotonic()
                if connection.in_atomic_block or left < settings.JOB_LEASE_S * (1 - LET_GO_AT):
                    raise LeaseLost from error
                logger.warning("job %s: not recorded yet: %s", self.job.pk, error)
                connection.close()
                self.held.lost.wait(RETRY_WRITE_S)
