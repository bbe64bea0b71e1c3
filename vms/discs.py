"""The disc in a machine's drive: what it was installed from, until it is ejected.

By hand, or by itself after the guest's first reboot: an installer ends with one, and the firmware
would boot the installer again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from accounts import audit, policy
from accounts.errors import Busy, Conflict
from accounts.policy import Action
from hosts.virt.errors import NoSuchDomain
from jobs import services as job_services
from vms import at_host, power, state, timeline
from vms.lifecycle import active_job
from vms.models import VM
from vms.provisioning.domain import ISO_TARGET
from vms.verbs import Situation

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.context import JobContext
    from jobs.models import Job

KIND = "vm.eject"


def eject(vm: VM, *, actor: User | None) -> Job:
    """Take the disc out, running or not. ``actor`` None: the guest has rebooted.

    Raises NotFound, Forbidden, Conflict (``vm.no_disc``, ``vm.why.*``), Busy."""
    if actor is not None:
        policy.require(actor, Action.POWER, vm)
    with transaction.atomic():
        row = (
            VM.objects.in_use()
            .select_for_update(of=("self",))
            .select_related("iso")
            .filter(pk=vm.pk)
            .first()
        )
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if row.iso is None:
            raise Conflict("vm.no_disc", name=vm.name)
        situation = Situation.of(row, active_job(row))
        if situation.host_down and row.host is not None:
            raise Conflict("vm.why.host_down", host=row.host.name)
        job = job_services.enqueue(
            KIND, actor=actor, vm=row, target_name=row.name, params={"disc": row.iso.name}
        )
        audit.record(actor, KIND, row, before={"disc": row.iso.name}, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=KIND)
        state.announce(row)
    return job


def after_reboot(vm: VM) -> None:
    """The watcher saw its guest reboot."""
    if vm.iso_id is None:
        return
    try:
        eject(vm, actor=None)
    except (Busy, Conflict):
        return  # something else is being done with it; a person can eject it


def take_out(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).eject_cdrom(vm.uuid, ISO_TARGET)
    except NoSuchDomain:
        return  # nothing holds it any more


def taken_out(job: Job) -> None:
    if job.vm is not None:
        VM.objects.filter(pk=job.vm.pk).update(iso=None)
    power.succeeded(job)
