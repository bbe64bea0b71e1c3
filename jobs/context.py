"""What a step is given: its job, and the ways to say how it goes and to hear that it should end."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connection

from jobs import live, subprocesses
from jobs.errors import CancelRequested, DeadlinePassed, LeaseLost
from jobs.models import HostRow, Job, Step

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.claims import Claim

PROGRESS_EVERY_S = 2.0
CHECK_EVERY_S = 1.0


class JobContext:
    """Valid during one claim. Every write is fenced: it raises ``LeaseLost`` when the job has
    gone to another worker."""

    def __init__(self, held: Claim, group: subprocesses.Group) -> None:
        self._held = held
        self._group = group
        self._checked_at = time.monotonic()
        self._progress_at = time.monotonic()
        self.fraction: float | None = None  # the last that a step reported
        self.compensating = False

    @property
    def job(self) -> Job:
        return self._held.job

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.job.params
        return params

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.job.data
        return data

    @property
    def actor(self) -> User | None:
        return self.job.actor

    def save_data(self, **new: Any) -> None:
        """Keep what this step assigned, before it has its effect: a later claim reads it."""
        data = {**self.job.data, **new}
        with self._held.write(data=data):
            self.job.data = data

    def set_host(self, host: HostRow) -> None:
        """The host that the job works on, once it is chosen: slots are counted there."""
        with self._held.write(host=host):
            self.job.host = host

    def note(self, code: str, **params: Any) -> None:
        """A line under the current step on the page, as a message code with parameters."""
        note = {"code": code, **params}
        with self._held.write(step=self.job.step):
            Step.objects.filter(job_id=self.job.pk, key=self.job.step).update(note=note)
            live.publish_job(self.job)

    def progress(self, fraction: float | None) -> None:
        """How much of this step is done, 0 to 1; None: it cannot be measured. Cheap enough to be
        called for every block: the row is written once in 2 s. May raise like ``checkpoint``."""
        self.checkpoint()
        self.fraction = None if fraction is None else min(1.0, max(0.0, fraction))
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_EVERY_S:
            return
        self._progress_at = now
        self.job.progress = self.fraction
        try:
            with self._held.write(progress=self.fraction):
                live.publish_job(self.job)
        except DatabaseError:
            connection.close()  # a lost line of progress is not worth a failed copy

    def checkpoint(self, *, max_age_s: float = CHECK_EVERY_S) -> None:
        """Raise ``Interrupt`` if the step should end now. Reads the row once in ``max_age_s``."""
        self._held.check()
        if self.compensating:
            return
        now = time.monotonic()
        if self._held.deadline_at is not None and now > self._held.deadline_at:
            raise DeadlinePassed
        if now - self._checked_at < max_age_s:
            return
        self._checked_at = now
        try:
            row = (
                Job.objects.active()
                .filter(pk=self.job.pk, attempt=self._held.attempt)
                .values_list("cancel_requested")
                .first()
            )
        except DatabaseError:
            connection.close()  # the heartbeat judges whether the database is away too long
            return
        if row is None:
            self._held.lost.set()
            raise LeaseLost
        if row[0]:
            raise CancelRequested

    def run(
        self,
        argv: list[str],
        *,
        timeout_s: float,
        on_output: subprocesses.OnOutput | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end (see ``jobs.subprocesses``); killed on cancel, at the deadline
        and when the lease is lost. ``CommandTimeout``. The caller judges the return code."""
        return subprocesses.run(
            argv, timeout_s=timeout_s, group=self._group, poll=self.checkpoint, on_output=on_output
        )

    def step_begins(self) -> None:
        self.fraction = None
        self._progress_at = time.monotonic()
