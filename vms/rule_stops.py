"""The job steps that stop a machine because a rule says so: its time is over, or nobody uses it.

The guest is asked first and has a while to shut down; then it is switched off. Whoever extends its
time meanwhile keeps a machine that has not been asked yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from hosts.virt.spec import DomainState
from jobs.registry import Park
from vms import at_host, idle, leases, power
from vms.deletion import patiently
from vms.provisioning.steps import switch_off

if TYPE_CHECKING:
    from jobs.context import JobContext

PATIENCE = timedelta(minutes=5)


@patiently
def ask(ctx: JobContext) -> None:
    """A guest that does not run (suspended, crashed) cannot be asked."""
    vm = at_host.machine(ctx)
    facts = at_host.look(vm)
    if _is_due(ctx) and facts is not None and facts.state is DomainState.RUNNING:
        power.ask_to_shut_down(ctx)


@patiently
def wait(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    asked_at = ctx.data.get("asked_at")
    if asked_at is None or not at_host.is_on(vm):
        return
    if timezone.now() - datetime.fromisoformat(asked_at) < PATIENCE:
        raise Park(power.GUEST_POLL_S, waiting_for="guest")


@patiently
def switch_it_off(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if not _is_due(ctx) or not at_host.is_on(vm):
        return
    switch_off(at_host.hypervisor(vm), vm)
    at_host.look(vm)


def _is_due(ctx: JobContext) -> bool:
    vm = at_host.machine(ctx)
    if ctx.job.kind == idle.STOP:
        return vm.idle_told_at is not None
    return leases.is_over(vm)
