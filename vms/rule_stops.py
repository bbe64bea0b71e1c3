"""The job steps that stop a machine because a rule says so: its time is over, or nobody uses it.

The guest is asked first and has a while to shut down; then, or where its host cannot even ask it,
it is switched off. A suspended one is not lost: its memory is saved, and it goes on at its
next start. Whoever extends its time meanwhile keeps a machine that has not been asked yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from hosts.virt.errors import HostUnreachable, VirtError
from hosts.virt.spec import DomainState
from jobs import registry
from jobs.registry import Park
from vms import at_host, idle, leases, power
from vms.deletion import patiently
from vms.models import VM
from vms.provisioning.steps import switch_off

if TYPE_CHECKING:
    from jobs.context import JobContext
    from jobs.models import Job

PATIENCE = timedelta(minutes=5)


@patiently
def ask(ctx: JobContext) -> None:
    """A guest that does not run (suspended, crashed) cannot be asked."""
    vm = at_host.machine(ctx)
    facts = at_host.look(vm)
    if not _is_due(ctx, vm) or facts is None or facts.state is not DomainState.RUNNING:
        return
    try:
        power.ask_to_shut_down(ctx)
    except VirtError as error:
        if _again(ctx, error):
            raise
        # A host that cannot ask it would keep it running for ever.
        ctx.save_data(asked_at=timezone.now().isoformat())
        ctx.note("vm.not_asked")


@patiently
def wait(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    asked_at = ctx.data.get("asked_at")
    if asked_at is None or not _is_due(ctx, vm):
        return
    facts = at_host.look(vm)
    if facts is None or facts.state is not DomainState.RUNNING:
        return
    if timezone.now() - datetime.fromisoformat(asked_at) < PATIENCE:
        raise Park(power.GUEST_POLL_S, waiting_for="guest")


@patiently
def save(ctx: JobContext) -> None:
    """Where that fails the machine stays as it is: one that nobody uses until somebody does, one
    whose time is over until it has failed ``leases.SAVE_TRIES`` times."""
    vm = at_host.machine(ctx)
    facts = at_host.look(vm)
    if not _is_due(ctx, vm) or facts is None or facts.state is not DomainState.PAUSED:
        return
    try:
        power.save(ctx)
    except VirtError as error:
        if _again(ctx, error):
            raise
        ctx.save_data(unsaved=True)
        if ctx.job.kind == idle.STOP or leases.saves_left(vm) > 1:
            raise
        ctx.note("vm.not_saved")


@patiently
def switch_it_off(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if not at_host.is_on(vm):
        return
    if not _is_due(ctx, vm):  # extended, or in use again: that is what it does from now on
        VM.objects.filter(pk=vm.pk).update(desired=VM.Desired.RUNNING)
        return
    switch_off(at_host.hypervisor(vm), vm)
    at_host.look(vm)


def not_stopped(job: Job) -> None:
    """``on_failure``."""
    power.failed(job)
    if job.vm is not None and job.data.get("unsaved"):
        (idle if job.kind == idle.STOP else leases).tell_unsaved(job.vm)


def _again(ctx: JobContext, error: VirtError) -> bool:
    """The engine, or a host that is back, gets another chance."""
    if isinstance(error, HostUnreachable):
        return True
    return error.transient and ctx.job.retries < registry.get(ctx.job.kind).max_retries


def _is_due(ctx: JobContext, vm: VM) -> bool:
    if ctx.job.kind == idle.STOP:
        return vm.idle_told_at is not None
    return leases.is_over(vm)
