"""What the jobs that a guest's agent carries out do, and what their end means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vms import at_host, power
from vms.models import GuestPassword

if TYPE_CHECKING:
    from jobs.context import JobContext
    from jobs.models import Job


def set_password(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    secret = GuestPassword.objects.get(job_id=ctx.job.pk)
    at_host.hypervisor(vm).set_guest_password(vm.uuid, secret.user, secret.password_hash)


def trim(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).trim_guest(vm.uuid, lambda _done, _all: ctx.checkpoint())


def password_set(job: Job) -> None:
    _forget(job)
    power.succeeded(job)


def password_not_set(job: Job) -> None:
    _forget(job)
    power.failed(job)


def _forget(job: Job) -> None:
    GuestPassword.objects.filter(job=job).delete()
