"""Activity: every job with who, what, step, progress, duration and outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from accounts.access import SignedInRequest, signed_in
from accounts.errors import NotFound
from accounts.fragments import done, render_page
from jobs import presentation, services
from jobs.models import Job, JobQuerySet

if TYPE_CHECKING:
    from accounts.models import User

PAGE_SIZE = 50
# What runs by itself (sweeps, refreshes) would bury what people do; admins find it under "System".
SYSTEM = Q(actor__isnull=True)


@dataclass(frozen=True, kw_only=True)
class Chip:
    key: str
    label: str
    icon: str
    css: str
    condition: Q


def _chips(user: User) -> list[Chip]:
    people = ~SYSTEM if user.is_admin else Q()
    chips = [
        Chip(key="", label=_("All"), icon="", css="", condition=people),
        Chip(
            key="active",
            label=_("At work"),
            icon="loader-circle",
            css="state-working",
            condition=Q(state__in=Job.ACTIVE_STATES) & people,
        ),
        Chip(
            key="succeeded",
            label=_("Succeeded"),
            icon="circle-check",
            css="state-running",
            condition=Q(state=Job.State.SUCCEEDED) & people,
        ),
        Chip(
            key="failed",
            label=_("Failed"),
            icon="circle-alert",
            css="state-failed",
            condition=Q(state=Job.State.FAILED) & people,
        ),
        Chip(
            key="cancelled",
            label=_("Cancelled"),
            icon="circle-slash",
            css="state-stopped",
            condition=Q(state=Job.State.CANCELLED) & people,
        ),
    ]
    if user.is_admin:
        chips.append(
            Chip(key="system", label=_("System"), icon="server-cog", css="", condition=SYSTEM)
        )
    return chips


def _filtered(user: User, words: str, condition: Q) -> JobQuerySet:
    jobs = Job.objects.visible_to(user).filter(condition)
    for word in words.split()[:8]:
        jobs = jobs.filter(
            Q(target_name__icontains=word)
            | Q(kind__icontains=word)
            | Q(actor__username__icontains=word)
            | Q(host__name__icontains=word)
        )
    return jobs


@signed_in
@require_GET
def job_list(request: SignedInRequest) -> HttpResponse:
    user = request.user
    words = request.GET.get("q", "").strip()[:200]
    chips = _chips(user)
    chosen = next((chip for chip in chips if chip.key == request.GET.get("state", "")), chips[0])
    jobs = _filtered(user, words, chosen.condition).order_by("-created_at")
    page = Paginator(jobs.with_everything(), PAGE_SIZE).get_page(request.GET.get("page"))
    views = [presentation.view(job, reader=user) for job in page.object_list]

    def address(**changes: Any) -> str:
        wanted = {"state": chosen.key, "q": words} | changes
        return "?" + urlencode({name: value for name, value in wanted.items() if value})

    context = {
        "jobs": [
            (view, _target_url(job)) for view, job in zip(views, page.object_list, strict=True)
        ],
        "chips": [(chip, address(state=chip.key), chip is chosen) for chip in chips],
        "chosen": chosen,
        "q": words,
        "page": page.number,
        "pages": page.paginator.num_pages,
        "previous_url": address(page=page.number - 1) if page.has_previous() else "",
        "next_url": address(page=page.number + 1) if page.has_next() else "",
        "live_query": address(page=page.number if page.number > 1 else "").lstrip("?"),
    }
    return render_page(request, "jobs/list.html", context, parts={"results"})


def _target_url(job: Job) -> str:
    """The page of what the job is about; "" when there is none (any more)."""
    if job.vm is not None and job.vm.deleted_at is None:
        return reverse("vm_detail", args=[job.vm.uuid])
    return ""


def _one(user: User, job_id: UUID) -> Job:
    job = Job.objects.visible_to(user).with_everything().filter(pk=job_id).first()
    if job is None:
        raise NotFound
    return job


@signed_in
@require_GET
def job_detail(request: SignedInRequest, job_id: UUID) -> HttpResponse:
    user = request.user
    job = _one(user, job_id)
    context = {
        "job": job,
        "view": presentation.view(job, reader=user),
        "target_url": _target_url(job),
    }
    return render_page(request, "jobs/detail.html", context, parts={"job"})


@signed_in
@require_POST
def job_cancel(request: SignedInRequest, job_id: UUID) -> HttpResponse:
    user = request.user
    job = _one(user, job_id)
    services.cancel(job, actor=user)
    return done(
        request,
        _("Cancelling: what was begun is cleaned up."),
        tone="work",
        changed=f"job:{job.pk} job",
    )


@signed_in
@require_POST
def job_retry(request: SignedInRequest, job_id: UUID) -> HttpResponse:
    user = request.user
    again = services.retry(_one(user, job_id), actor=user)
    return done(
        request, _("Trying again."), tone="work", goal=reverse("job_detail", args=[again.pk])
    )
