"""``/jobs``: what is being done, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest
from ninja import Query, Router, Schema

from accounts.apiauth import Page, Paging, idempotent, let_in, paginate
from accounts.errors import NotFound
from accounts.models import User
from jobs import presentation, services
from jobs.models import Job

router = Router(tags=["jobs"])

JobState = Literal["queued", "running", "compensating", "succeeded", "failed", "cancelled"]


class ErrorOut(Schema):
    code: str
    message: str
    ref: str


class JobBrief(Schema):
    """Goes with every 202."""

    id: UUID
    kind: str
    state: str
    progress: float | None  # of the current step, 0 to 1; null: cannot be measured
    step: str
    error: ErrorOut | None


class StepOut(Schema):
    key: str
    label: str
    state: str
    note: str
    started_at: datetime | None
    finished_at: datetime | None


class JobOut(JobBrief):
    label: str
    percent: int  # of the whole job
    eta_s: float | None
    waiting: str
    warning: ErrorOut | None
    target: str
    vm: UUID | None
    host: str | None
    image: int | None
    team: str | None
    actor: str | None
    cancel_requested: bool
    retried_by: UUID | None
    steps: list[StepOut]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Accepted(Schema):
    job: JobBrief


class JobFilter(Schema):
    state: JobState | Literal["active"] | None = None
    vm: UUID | None = None


def brief(job: Job) -> dict[str, Any]:
    """The job of a 202, for every app's API."""
    return {
        "id": job.pk,
        "kind": job.kind,
        "state": job.state,
        "progress": job.progress,
        "step": job.step,
        "error": _error(presentation.error(job)),
    }


def full(job: Job) -> dict[str, Any]:
    return brief(job) | {
        "label": presentation.label(job),
        "percent": int(presentation.whole_fraction(job) * 100),
        "eta_s": presentation.eta_s(job),
        "waiting": presentation.waiting(job),
        "warning": _error(presentation.warning(job)),
        "target": job.target_name,
        "vm": job.vm.uuid if job.vm else None,
        "host": job.host.name if job.host else None,
        "image": job.image_id,
        "team": job.team.name if job.team else None,
        "actor": job.actor.username if job.actor else None,
        "cancel_requested": job.cancel_requested,
        "retried_by": job.retried_by_id,
        "steps": [
            {
                "key": step.key,
                "label": step.label,
                "state": step.state,
                "note": step.note,
                "started_at": step.started_at,
                "finished_at": step.finished_at,
            }
            for step in presentation.steps(job)
        ],
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


@router.get("/jobs", response=Page[JobOut], summary="List jobs, newest first")
def list_jobs(
    request: HttpRequest, paging: Query[Paging], which: Query[JobFilter]
) -> dict[str, Any]:
    rows = Job.objects.visible_to(_person(request)).with_everything()
    if which.state == "active":
        rows = rows.active()
    elif which.state is not None:
        rows = rows.filter(state=which.state)
    if which.vm is not None:
        rows = rows.filter(vm__uuid=which.vm)
    page = paginate(rows, paging)
    return {"items": [full(job) for job in page["items"]], "count": page["count"]}


@router.get("/jobs/{uuid:job_id}", response=JobOut, summary="One job with its steps")
def get_job(request: HttpRequest, job_id: UUID) -> dict[str, Any]:
    return full(_find(request, job_id))


@router.post("/jobs/{uuid:job_id}/cancel", response={202: Accepted}, summary="Cancel and undo it")
def cancel_job(request: HttpRequest, job_id: UUID) -> tuple[int, dict[str, Any]]:
    services.cancel(_find(request, job_id), actor=_person(request))
    return 202, {"job": brief(_find(request, job_id))}


@router.post("/jobs/{uuid:job_id}/retry", response={202: Accepted}, summary="Do it again")
@idempotent
def retry_job(request: HttpRequest, job_id: UUID) -> tuple[int, dict[str, Any]]:
    job = services.retry(_find(request, job_id), actor=_person(request))
    return 202, {"job": brief(job)}


def _person(request: HttpRequest) -> User:
    return let_in(request).user


def _find(request: HttpRequest, job_id: UUID) -> Job:
    job = Job.objects.visible_to(_person(request)).with_everything().filter(pk=job_id).first()
    if job is None:
        raise NotFound
    return job


def _error(error: presentation.ErrorView | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "ref": error.ref}
