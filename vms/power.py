"""The job steps of the power verbs, and what their end means for the machine.

Each looks at the domain after it has acted, so that the row is true even with no watcher. A verb
whose effect is there already has succeeded: somebody was quicker.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils import timezone

from accounts import quotas
from hosts.virt.errors import WrongState
from hosts.virt.spec import DomainState
from jobs.models import Job
from jobs.registry import Park
from vms import at_host, keys, state, timeline
from vms.models import VM
from vms.provisioning.outcome import warn
from vms.provisioning.steps import arrange_screen, power_on, switch_off
from vms.state import ON, RUNNING_RESOURCES

if TYPE_CHECKING:
    from jobs.context import JobContext

GUEST_POLL_S = 2.0  # the watcher wakes the job as soon as the domain has stopped
# After this the job ends with a warning. The page offers "Force off" after one minute.
SHUTDOWN_PATIENCE = timedelta(minutes=10)


def start(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    power_on(at_host.hypervisor(vm), vm)
    quotas.activate(vm, RUNNING_RESOURCES)


def start_paused(ctx: JobContext) -> None:
    """QEMU is there, its processors stand still: *Resume* lets the guest begin."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    arrange_screen(at, vm)
    try:
        at.start(vm.uuid, paused=True)
    except WrongState:
        if not at_host.is_on(vm):
            raise
    at_host.look(vm)
    quotas.activate(vm, RUNNING_RESOURCES)


def save(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).save(vm.uuid, lambda _done, _all: ctx.checkpoint())
    except WrongState:
        facts = at_host.look(vm)
        if facts is None or not facts.saved:
            raise
    at_host.look(vm)


def discard_saved(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).discard_saved(vm.uuid)
    at_host.look(vm)


def inject_nmi(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).inject_nmi(vm.uuid)


def send_keys(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).send_keys(vm.uuid, keys.codes(ctx.params["keys"]))


def ask_to_shut_down(ctx: JobContext) -> None:
    """Press the power button, or tell its agent; the guest may ignore it."""
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).shutdown(vm.uuid, by=ctx.params.get("by", ""))
    except WrongState:
        if at_host.is_on(vm):
            raise
    ctx.save_data(asked_at=timezone.now().isoformat())


def wait_until_off(ctx: JobContext) -> None:
    """Watch the guest stop. Any verb that overrules the shutdown ends this job as done."""
    vm = at_host.machine(ctx)
    if not at_host.is_on(vm):
        return
    asked_at = datetime.fromisoformat(ctx.data["asked_at"])
    if timezone.now() - asked_at > SHUTDOWN_PATIENCE:
        ctx.note("vm.shutdown_ignored", minutes=int(SHUTDOWN_PATIENCE.total_seconds() // 60))
        return
    patience = timedelta(seconds=settings.GUEST_PATIENCE_S)
    if timezone.now() - asked_at > patience and not ctx.data.get("offered"):
        ctx.save_data(offered=True)
        state.announce(vm)  # open pages offer to force it off from now on
    raise Park(GUEST_POLL_S, waiting_for="guest")


def force_off(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    switch_off(at_host.hypervisor(vm), vm)
    at_host.look(vm)


def reboot(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).reboot(vm.uuid)


def reset(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at_host.hypervisor(vm).reset(vm.uuid)


def suspend(ctx: JobContext) -> None:
    _to(ctx, DomainState.PAUSED)


def resume(ctx: JobContext) -> None:
    _to(ctx, DomainState.RUNNING)


def _to(ctx: JobContext, wanted: DomainState) -> None:
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    try:
        (at.suspend if wanted is DomainState.PAUSED else at.resume)(vm.uuid)
    except WrongState:
        facts = at_host.look(vm)
        if facts is None or facts.state is not wanted:
            raise
        return
    at_host.look(vm)


# --- outcomes ------------------------------------------------------------------------------------


def succeeded(job: Job) -> None:
    vm = job.vm
    if vm is None:
        return
    VM.objects.filter(pk=vm.pk).exclude(fault_code="").update(
        fault_code="", fault_params={}, fault_ref="", fault_at=None
    )
    warn(job)
    timeline.record(vm, "job.succeeded", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)


def failed(job: Job) -> None:
    """The machine is as it was: what was promised to it for running is given back, and what is
    wanted of it is what it does."""
    vm = job.vm
    if vm is None:
        return
    on = vm.observed in ON
    if not on:
        quotas.release(vm, RUNNING_RESOURCES)
    note_fault(vm, job)
    VM.objects.filter(pk=vm.pk).update(desired=VM.Desired.RUNNING if on else VM.Desired.STOPPED)
    timeline.record(vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)


def note_fault(vm: VM, job: Job) -> None:
    if job.error_code and job.state == Job.State.FAILED:
        VM.objects.filter(pk=vm.pk).update(
            fault_code=job.error_code,
            fault_params=job.error_params,
            fault_ref=job.error_ref,
            fault_at=timezone.now(),
        )
