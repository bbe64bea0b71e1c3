"""A linked disk made independent of the image or template version that it stands on.

While the machine runs, QEMU pulls what is missing into the disk (libvirt's block pull). While it is
off, a full copy takes the disk's place.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from django.db import transaction

from accounts import audit, policy
from accounts.errors import Conflict
from accounts.policy import Action
from jobs import live
from jobs import services as job_services
from vms import at_host, commands, power, replacing, state, timeline
from vms.hardware import rules
from vms.lifecycle import active_job
from vms.models import VM, Disk
from vms.state import ON

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.context import JobContext
    from jobs.models import Job

KIND = "vm.flatten"


def linked_disk(vm: VM) -> Disk | None:
    return next((disk for disk in vm.disks.all() if disk.backing_image_id), None)


def why_not(vm: VM, active: Job | None) -> str | None:
    """The code of why its disk cannot be made independent now. Snapshots lie inside the disk and
    read from what it stands on."""
    if code := rules.why_not_disks(vm, active):
        return code
    return None if linked_disk(vm) else "vm.why.independent"


def request(vm: VM, *, actor: User) -> Job:
    """Raises NotFound, Forbidden, Conflict (``vm.why.*``), Busy."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if code := why_not(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        disk = linked_disk(row)
        if disk is None or disk.backing_image is None:
            raise Conflict("vm.why.independent", name=row.name)
        stood_on = disk.backing_image.name
        job = job_services.enqueue(
            KIND,
            actor=actor,
            vm=row,
            target_name=row.name,
            params={"target": disk.target, "was": disk.volume, "stood_on": stood_on},
            queue="bulk",
        )
        before = {"stands_on": stood_on}
        audit.record(actor, KIND, row, before=before, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=KIND)
        state.announce(row)
    return job


def show(vm: VM) -> list[str]:
    """“Show command”."""
    disk = linked_disk(vm)
    if disk is None:
        return []
    if vm.observed in ON:
        pull = ["virsh", "-c", commands.URI, "blockpull", vm.domain_name, disk.target]
        return [f"{shlex.join(pull)} --wait --verbose"]
    file = f"{disk.pool.path if disk.pool else commands.POOL_PATH}/{disk.volume}"
    return [shlex.join(["qemu-img", "rebase", "-p", "-f", "qcow2", "-b", "", file])]


# --- the job -------------------------------------------------------------------------------------


def pull(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if not at_host.is_on(vm):
        replacing.copy_itself(ctx)
        return

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    at_host.hypervisor(vm).pull_backing(vm.uuid, ctx.params["target"], progress)
    ctx.save_data(pulled=True)


def drop(ctx: JobContext) -> None:
    """What was pulled already does no harm: the disk stands as it stood, or on nothing. QEMU goes
    on with what a worker that was killed has begun, until it is told."""
    if ctx.data.get("pulled"):
        return
    vm = at_host.machine(ctx)
    if at_host.is_on(vm):
        at_host.hypervisor(vm).stop_copies(vm.uuid)
    replacing.drop_new(ctx)


def settle(ctx: JobContext) -> None:
    if ctx.data.get("pulled"):
        Disk.objects.filter(pk=replacing.disk_of(ctx).pk).update(backing_image=None)
    else:
        replacing.switch(ctx)


def unsettle(ctx: JobContext) -> None:
    if not ctx.data.get("pulled"):
        replacing.switch_back(ctx)


def remove_old(ctx: JobContext) -> None:
    if ctx.data.get("pulled"):
        replacing.drop_new(ctx)  # begun while it was off
    else:
        replacing.remove_old(ctx)


def succeeded(job: Job) -> None:
    if job.vm is not None:
        VM.objects.filter(pk=job.vm.pk).update(copy=VM.Copy.FULL)
        live.publish_on_commit("image", job.vm.pk, groups={live.ADMINS, f"team.{job.vm.team_id}"})
    power.succeeded(job)
