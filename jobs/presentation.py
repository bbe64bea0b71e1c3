"""A job in words and numbers, in the reader's language: what pages and the API show of it.

Use rows of ``Job.objects.with_everything()``; nothing here asks the database again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts import messages, policy
from accounts.policy import Action
from jobs import registry
from jobs.models import Job, Step

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.registry import JobKind

# An estimate before this much has been seen would jump about.
ETA_AFTER_S = 3.0
ETA_AFTER_FRACTION = 0.03


@dataclass(frozen=True, kw_only=True)
class ErrorView:
    code: str
    message: str
    ref: str  # for an admin's log; "" if there is nothing more to find


@dataclass(frozen=True, kw_only=True)
class StepView:
    key: str
    label: str
    state: str  # a Step.State
    state_label: str
    progress: float | None  # 0 to 1 while it runs and can be measured
    failed: bool  # also when it was cleaned up since
    note: str
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class JobView:
    id: UUID
    kind: str
    label: str  # "Create machine"
    verb: str  # "creating"
    state: str
    state_label: str
    target: str
    who: str
    host: str
    step: str
    step_label: str
    steps: list[StepView]
    progress: float | None  # of the current step
    fraction: float  # of the whole, by the steps' weights
    percent: int
    eta_s: float | None  # of the current step
    waiting: str  # a sentence; "" if it waits for nothing
    error: ErrorView | None
    warning: ErrorView | None  # it succeeded, but
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: float | None
    can_cancel: bool
    can_retry: bool


def view(job: Job, *, reader: User | None = None) -> JobView:
    """``reader`` decides which buttons there are; None: none."""
    kind = registry.find(job.kind)
    fraction = whole_fraction(job)
    return JobView(
        id=job.pk,
        kind=job.kind,
        label=label(job),
        verb=str(kind.verb) if kind else "",
        state=job.state,
        state_label=str(job.get_state_display()),
        target=job.target_name,
        who=job.actor.display_name() if job.actor else _("KVMWeb"),
        host=job.host.name if job.host else "",
        step=job.step,
        step_label=step_label(job),
        steps=steps(job),
        progress=job.progress,
        fraction=fraction,
        percent=int(fraction * 100),
        eta_s=eta_s(job),
        waiting=waiting(job),
        error=error(job),
        warning=warning(job),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        duration_s=duration_s(job),
        can_cancel=reader is not None and can_cancel(job, kind, reader),
        can_retry=reader is not None and can_retry(job, kind, reader),
    )


def label(job: Job) -> str:
    kind = registry.find(job.kind)
    return str(kind.label) if kind else job.kind


def step_label(job: Job) -> str:
    kind = registry.find(job.kind)
    spec = kind.step(job.step) if kind else None
    return str(spec.label) if spec else job.step


def steps(job: Job) -> list[StepView]:
    """In order, without those that this job does not need."""
    kind = registry.find(job.kind)
    return [_step(job, row, kind) for row in job.steps.all() if row.state != Step.State.SKIPPED]


def _step(job: Job, row: Step, kind: JobKind | None) -> StepView:
    spec = kind.step(row.key) if kind else None
    current = row.key == job.step and row.state == Step.State.RUNNING
    code = row.note.get("code", "")
    return StepView(
        key=row.key,
        label=str(spec.label) if spec else row.key,
        state=row.state,
        state_label=str(row.get_state_display()),
        progress=job.progress if current else None,
        failed=row.state == Step.State.FAILED or bool(row.note.get("failed")),
        note=messages.text(code, row.note) if code else "",
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def whole_fraction(job: Job) -> float:
    """How much of the whole job is done, 0 to 1, by the weights of its steps."""
    if job.state == Job.State.SUCCEEDED:
        return 1.0
    kind = registry.find(job.kind)
    done = total = 0.0
    for row in job.steps.all():
        if row.state == Step.State.SKIPPED:
            continue
        spec = kind.step(row.key) if kind else None
        weight = spec.weight if spec else 1
        total += weight
        if row.state == Step.State.DONE:
            done += weight
        elif row.state == Step.State.RUNNING and row.key == job.step:
            done += weight * (job.progress or 0.0)
    return done / total if total else 0.0


def eta_s(job: Job) -> float | None:
    """Seconds until the current step ends, at the pace so far; None: cannot be said."""
    if job.state != Job.State.RUNNING or job.progress is None:
        return None
    row = next((row for row in job.steps.all() if row.key == job.step), None)
    if row is None or row.started_at is None or job.progress < ETA_AFTER_FRACTION:
        return None
    gone = (timezone.now() - row.started_at).total_seconds()
    if gone < ETA_AFTER_S:
        return None
    return gone * (1.0 - job.progress) / job.progress


def duration_s(job: Job) -> float | None:
    if job.started_at is None:
        return None
    return max(0.0, ((job.finished_at or timezone.now()) - job.started_at).total_seconds())


def waiting(job: Job) -> str:
    """What an active job waits for, as a sentence without a full stop; "" if it works."""
    if job.state == Job.State.QUEUED:
        return _("Waiting for a worker")
    if job.is_over or not job.waiting_for:
        return ""
    what, _colon, rest = job.waiting_for.partition(":")
    if what == "slot":
        kind, _colon, position = rest.partition(":")
        return _slot(kind, int(position or 1), job)
    if what == "retry":
        text = messages.text(rest, job.error_params) if rest else ""
        if job.state == Job.State.COMPENSATING:
            return _("Cleaning up did not work yet and is tried again shortly. %(why)s") % {
                "why": text
            }
        return _("Did not work yet and is tried again shortly. %(why)s") % {"why": text}
    # Whoever parks says what for, as a code with a message of its own.
    code = f"waiting.{what}"
    return messages.text(code, {"rest": rest}) if messages.is_known(code) else ""


def _slot(kind: str, position: int, job: Job) -> str:
    host = job.host.name if job.host else ""
    if kind == "copy":
        text = ngettext(
            "Next in the queue for disk work on %(host)s",
            "Number %(position)s in the queue for disk work on %(host)s",
            position,
        )
    else:
        text = ngettext(
            "Next in the queue on %(host)s",
            "Number %(position)s in the queue on %(host)s",
            position,
        )
    return text % {"position": position, "host": host}


def error(job: Job) -> ErrorView | None:
    """Why it failed; None while it goes well, and for what was cancelled."""
    if not job.error_code:
        return None
    text = messages.text(job.error_code, job.error_params)
    return ErrorView(code=job.error_code, message=text, ref=job.error_ref)


def warning(job: Job) -> ErrorView | None:
    if not job.warning_code:
        return None
    params = {} if job.error_code else job.error_params
    ref = "" if job.error_code else job.error_ref
    return ErrorView(
        code=job.warning_code, message=messages.text(job.warning_code, params), ref=ref
    )


def can_cancel(job: Job, kind: JobKind | None, reader: User) -> bool:
    stoppable = job.state in (Job.State.QUEUED, Job.State.RUNNING) and not job.cancel_requested
    return (
        stoppable
        and (kind is None or kind.cancellable)
        and policy.can(reader, Action.JOB_CANCEL, job)
    )


def can_retry(job: Job, kind: JobKind | None, reader: User) -> bool:
    over = job.state in (Job.State.FAILED, Job.State.CANCELLED) and job.retried_by_id is None
    return (
        over
        and kind is not None
        and kind.retry is not None
        and policy.can(reader, Action.JOB_CANCEL, job)
    )
