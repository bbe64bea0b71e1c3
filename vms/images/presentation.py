"""Images in words, for pages: state, sizes, what is being done, what can be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db.models import Count, Q
from django.utils.translation import gettext as _

from accounts import messages
from jobs import presentation as jobs_shown
from jobs.models import Job
from jobs.presentation import JobView
from vms.images import services, uploads
from vms.models import Image
from vms.presentation import StateView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from accounts.models import User

GIB = 1024**3
State = Image.State


@dataclass(frozen=True, kw_only=True)
class ImageView:
    image: Image
    state: StateView
    job: JobView | None  # what is being done with it now
    upload_share: float | None  # 0 to 1 while an upload is open, else None
    error: str
    disk_gib: int  # the smallest disk that it fits on
    machines: int
    hosts: int  # that have a copy
    verbs: tuple[str, ...]  # of VERBS, those that make sense now


def views(images: Iterable[Image], user: User) -> list[ImageView]:
    """A bounded number of queries, however many images."""
    rows = list(
        Image.objects.filter(pk__in=[image.pk for image in images])
        .annotate(
            machine_count=Count(
                "machines", filter=Q(machines__deleted_at__isnull=True), distinct=True
            ),
            host_count=Count("copies", filter=Q(copies__state="ready"), distinct=True),
        )
        .order_by("name")  # an aggregate drops the model's own order
    )
    active: dict[int | None, Job] = {
        job.image_id: job
        for job in Job.objects.active()
        .with_everything()
        .filter(image__in=rows, kind__startswith="image.", host__isnull=True)
    }
    return [_view(row, active.get(row.pk), user) for row in rows]


def _view(image: Image, job: Job | None, user: User) -> ImageView:
    open_upload = uploads.is_open(image)
    return ImageView(
        image=image,
        state=_state(image, job, open_upload=open_upload),
        job=jobs_shown.view(job, reader=user) if job else None,
        upload_share=image.upload_received_bytes / image.upload_total_bytes
        if open_upload
        else None,
        error=messages.text(image.error_code, image.error_params) if image.error_code else "",
        disk_gib=max(image.min_disk_gib, -(-image.virtual_size_bytes // GIB)),
        machines=getattr(image, "machine_count", 0),
        hosts=getattr(image, "host_count", 0),
        verbs=_verbs(image, job, open_upload=open_upload),
    )


def _state(image: Image, job: Job | None, *, open_upload: bool) -> StateView:
    if job is not None:
        word = jobs_shown.step_label(job) or jobs_shown.label(job)
        return StateView(key="working", word=word, icon="loader-circle", css="state-working")
    if open_upload:
        return StateView(
            key="upload", word=_("Upload not finished"), icon="upload", css="state-paused"
        )
    match State(image.state):
        case State.READY if image.published:
            return StateView(
                key="published", word=_("Published"), icon="circle-check", css="state-running"
            )
        case State.READY:
            return StateView(
                key="ready", word=_("Ready, not published"), icon="eye-off", css="state-paused"
            )
        case State.RETIRED:
            return StateView(key="retired", word=_("Retired"), icon="archive", css="state-stopped")
        case State.FAILED:
            return StateView(
                key="failed", word=_("Failed"), icon="triangle-alert", css="state-failed"
            )
    return StateView(key="new", word=_("Waiting"), icon="hourglass", css="state-working")


def _verbs(image: Image, job: Job | None, *, open_upload: bool) -> tuple[str, ...]:
    if job is not None:
        return ()
    if open_upload:
        return ("cancel-upload",)
    match State(image.state):
        case State.READY:
            return ("unpublish" if image.published else "publish", "retire", "delete")
        case State.RETIRED:
            return ("restore", "delete")
        case State.FAILED if image.source in services.FETCHED_AGAIN:
            return ("fetch", "delete")
        case State.FAILED:
            return ("delete",)
    return ()
