"""A host's copy of an image: made once, by whoever needs it first; all others wait for it.

The row is unique for image and pool, and only its transitions under a lock start a job, so there
is one job however many ask at once. A row is ``ready`` only after the whole upload; what a dead
worker left in the pool is written again from the start.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import transaction

from accounts.errors import Conflict
from hosts import connections
from hosts.virt.errors import NoSuchVolume
from jobs import services as job_services
from jobs.models import Job
from vms.models import Image, ImageCopy

if TYPE_CHECKING:
    from accounts.models import User
    from hosts.models import Pool

KIND = "image.copy"
DELETE = "image.delete"
State = ImageCopy.State


def ensure_copy(
    *, image: Image, pool: Pool, actor: User | None, asked_at: datetime | None = None
) -> ImageCopy:
    """The copy as it is now; starts its job where none is under way. For workers only: it asks
    the host whether a ready copy is still there, since volumes can be deleted outside.

    A copy that failed is tried again, unless it failed after ``asked_at``: who waited for it
    since then is told (state ``failed``) instead of waiting for ever.
    Raises VirtError, Conflict when the image is being deleted.
    """
    ready = ImageCopy.objects.filter(image=image, pool=pool, state=State.READY).first()
    if ready is not None and _is_there(image, pool):
        return ready
    with transaction.atomic():
        row = _locked_row(image, pool)
        if row.state == State.READY and (ready is None or row.copied_at != ready.copied_at):
            return row  # somebody finished it since we looked
        if row.state == State.COPYING and row.job is not None and not row.job.is_over:
            return row
        if row.state == State.FAILED and _failed_since(row, asked_at):
            return row
        row.state = State.COPYING
        row.copied_at = None
        row.job = _enqueue(image, pool, actor)
        row.save(update_fields=["state", "copied_at", "job"])
    return row


def _is_there(image: Image, pool: Pool) -> bool:
    try:
        connections.hypervisor(pool.host).volume(pool.name, image.volume_name)
    except NoSuchVolume:
        return False
    return True


def _locked_row(image: Image, pool: Pool) -> ImageCopy:
    """The row, made when it is missing, locked until the transaction ends."""
    held = Image.objects.select_for_update().get(pk=image.pk)
    if held.state not in (Image.State.READY, Image.State.RETIRED):
        raise Conflict("image.wrong_state", name=held.name)
    if Job.objects.active().filter(image=held, kind=DELETE).exists():
        raise Conflict("image.being_deleted", name=held.name)
    ImageCopy.objects.get_or_create(image=held, pool=pool)
    rows = ImageCopy.objects.select_for_update(of=("self",)).select_related("job", "pool__host")
    return rows.get(image=held, pool=pool)


def _failed_since(row: ImageCopy, asked_at: datetime | None) -> bool:
    if asked_at is None or row.job is None or row.job.finished_at is None:
        return False
    return row.job.finished_at >= asked_at


def _enqueue(image: Image, pool: Pool, actor: User | None) -> Job:
    return job_services.enqueue(
        KIND,
        # Others wait for it, too: only an admin's own copy is theirs to cancel.
        actor=actor if actor is not None and actor.is_admin else None,
        host=pool.host,
        image=image,
        target_name=image.name,
        params={"pool": pool.pk},
    )
