"""A job is the truth about a change on a hypervisor; a broker message is only a hint."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from django.conf import settings
from django.db import models
from django.db.models import ExpressionWrapper, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from accounts import sharing

if TYPE_CHECKING:
    from accounts.models import User

# Rows of apps above this one, which it may not import, not even to name their types.
HostRow: TypeAlias = Any
ImageRow: TypeAlias = Any
VMRow: TypeAlias = Any


def db_time(seconds: float = 0) -> models.Expression:
    """The database's clock plus ``seconds``. Leases and deadlines are judged by this clock
    alone: the clocks of workers may differ by hours."""
    if not seconds:
        return Now()
    return ExpressionWrapper(
        Now() + timedelta(seconds=seconds), output_field=models.DateTimeField()
    )


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: User) -> JobQuerySet:
        """As ``accounts.policy`` says: a job about a machine follows the machine, any other
        belongs to who started it and to its team."""
        if user.is_admin:
            return self
        if not user.is_active:
            return self.none()
        teams = user.memberships.values("team")
        return self.filter(
            Q(vm__owner=user)
            | Q(vm__team__in=teams)
            | Q(vm__uuid__in=sharing.machines_shared_with(user))
            | Q(vm__isnull=True, actor=user)
            | Q(vm__isnull=True, team__in=teams)
        )

    def active(self) -> JobQuerySet:
        return self.filter(state__in=Job.ACTIVE_STATES)

    def claimable(self) -> JobQuerySet:
        """Never begun, or begun and let go: parked until now, or its worker's lease passed."""
        return self.filter(
            Q(state=Job.State.QUEUED)
            | Q(
                state__in=[Job.State.RUNNING, Job.State.COMPENSATING],
                lease_until__lte=db_time(),
            )
        )

    def parked(self) -> JobQuerySet:
        """Begun, with no worker: waiting for a time or for ``jobs.services.wake``."""
        return self.filter(state__in=[Job.State.RUNNING, Job.State.COMPENSATING], worker="")

    def with_everything(self) -> JobQuerySet:
        """All that a page or the API shows of each job: two queries, however many jobs."""
        return self.select_related(
            "actor", "team", "vm", "host", "image", "retried_by"
        ).prefetch_related("steps")


class Job(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        COMPENSATING = "compensating", _("Cleaning up")
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    ACTIVE_STATES: ClassVar[list[str]] = ["queued", "running", "compensating"]
    FINAL_STATES: ClassVar[list[str]] = ["succeeded", "failed", "cancelled"]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=32)  # "vm.create": a key of jobs.registry
    queue = models.CharField(max_length=8, default="quick")  # quick | bulk
    vm = models.ForeignKey(
        "vms.VM", null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs"
    )
    host = models.ForeignKey(
        "hosts.Host", null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs"
    )
    image = models.ForeignKey(
        "vms.Image", null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs"
    )
    target_name = models.CharField(max_length=128, blank=True)  # what a list shows, even later
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="jobs"
    )
    team = models.ForeignKey("accounts.Team", null=True, on_delete=models.SET_NULL)
    idempotency_key = models.CharField(max_length=128, null=True, unique=True)
    params = models.JSONField(default=dict)  # the input; never a secret
    data = models.JSONField(default=dict)  # what steps assigned: volume names, facts

    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    attempt = models.PositiveIntegerField(default=0)  # fences every write of an older claim
    retries = models.PositiveIntegerField(default=0)  # after transient errors and lost workers
    worker = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    deadline = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    # After this the thing exists and works; what follows only watches (first boot).
    observing = models.BooleanField(default=False)
    outcome_wanted = models.CharField(max_length=12, blank=True)  # while compensating

    progress = models.FloatField(null=True)  # of the current step, 0 to 1; null: not measurable
    step = models.CharField(max_length=32, blank=True)  # key of the current step
    waiting_for = models.CharField(max_length=64, blank=True)  # e.g. "slot:copy:2"
    error_code = models.CharField(max_length=48, blank=True)
    error_params = models.JSONField(default=dict)
    error_ref = models.CharField(max_length=12, blank=True)  # finds the raw text in the log
    warning_code = models.CharField(max_length=48, blank=True)  # succeeded, but...; or cleanup
    # Woken while a worker was on it: the next park ends at once, so that no wake-up is lost.
    wake_requested = models.BooleanField(default=False)
    retried_by = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)

    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["state", "lease_until"]),
            models.Index(fields=["-created_at"]),
            models.Index(fields=["actor", "-created_at"]),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["vm"],
                condition=Q(state__in=["queued", "running", "compensating"], vm__isnull=False),
                name="job_one_active_per_vm",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}".strip()

    @property
    def is_over(self) -> bool:
        return self.state in self.FINAL_STATES


class Step(models.Model):
    class State(models.TextChoices):
        PENDING = "pending", _("Waiting")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")
        UNDONE = "undone", _("Cleaned up")
        SKIPPED = "skipped", _("Skipped")

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="steps")
    index = models.PositiveSmallIntegerField()
    key = models.CharField(max_length=32)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    note = models.JSONField(default=dict)  # {"code": ..., **params} for the page

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["job", "key"], name="step_once_per_job")]


class Slot(models.Model):
    """Leave to do heavy work on a host, as a leased row: copies never starve each other."""

    host = models.ForeignKey("hosts.Host", on_delete=models.CASCADE)
    kind = models.CharField(max_length=16)  # "copy", "migrate"
    number = models.PositiveSmallIntegerField()
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL)
    lease_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["host", "kind", "number"], name="slot_once")]


class Lock(models.Model):
    """One process at a time does what ``name`` says, until the lease passes."""

    name = models.CharField(max_length=32, primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
