"""Backups by the clock: what is due is begun, and people are told when none comes of it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.errors import DomainError
from accounts.notifications import register_topic
from jobs import reconcile
from jobs.models import Job
from vms import leases
from vms.backups import services
from vms.models import BackupPlan

if TYPE_CHECKING:
    from vms.models import VM

log = logging.getLogger(__name__)

# A round that could not be begun (the machine is busy, its host away) is tried again then.
AGAIN_AFTER = timedelta(minutes=30)
# and people are told of it once, when it has not been begun for so long.
TELL_AFTER = timedelta(hours=12)
ROUNDS_AT_ONCE = 20
TAB = "backups"

register_topic(
    "backup",
    _("Backups of my machines that failed"),
    of_team=_("Backups of its machines that failed"),
)


def rounds() -> None:
    """Called by the reconciler: begin what is due."""
    now = timezone.now()
    due = BackupPlan.objects.filter(
        next_at__lte=now, vm__deleted_at__isnull=True, vm__binned_at__isnull=True
    ).select_related("vm__team", "vm__owner")
    for one in due[:ROUNDS_AT_ONCE]:
        try:
            services.take(one.vm, actor=None, scheduled=True)
        except DomainError as error:  # noqa: PERF203 - each is settled for itself
            log.info("no backup of %s yet: %s", one.vm.uuid, error.code)
            _put_off(one, now)
        else:
            BackupPlan.objects.filter(pk=one.pk).update(
                next_at=_next(one, now), refused_since=None, told=False
            )


def register() -> None:
    reconcile.register_reconciler(rounds)


def failed(vm: VM, job: Job) -> None:
    """In the transaction that ends a round's job: nobody looks at a job that nobody began."""
    if job.state == Job.State.FAILED and job.actor is None:
        leases.tell(vm, "backup.failed", tab=TAB)


def _next(plan: BackupPlan, now: datetime) -> datetime:
    """At the same hour, however late this round was begun."""
    each = timedelta(days=plan.every_days)
    following = (plan.refused_since or plan.next_at) + each
    return following if following > now else now + each


def _put_off(plan: BackupPlan, now: datetime) -> None:
    since = plan.refused_since or plan.next_at
    tell = not plan.told and now - since >= TELL_AFTER
    with transaction.atomic():
        BackupPlan.objects.filter(pk=plan.pk).update(
            next_at=now + AGAIN_AFTER, refused_since=since, told=plan.told or tell
        )
        if tell:
            leases.tell(plan.vm, "backup.put_off", tab=TAB, since_at=since)
