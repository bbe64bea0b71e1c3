"""What the end of ``vm.create`` means for the machine.

Database only: it runs in the transaction that makes the job final.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from accounts import policy, quotas
from accounts.errors import Conflict, NotFound
from accounts.policy import Action
from jobs import services as job_services
from jobs.errors import CLEANUP_INCOMPLETE
from jobs.models import Job
from vms import knobs, state, timeline
from vms.lease_rules import Rulebook
from vms.models import VM, Backup, Image, PublishedPort
from vms.provisioning.request import write
from vms.provisioning.validation import Problems, Wanted, usable_networks

if TYPE_CHECKING:
    from accounts.models import User

WARNINGS = frozenset(
    {
        "vm.no_address",
        "vm.first_boot_failed",
        "vm.first_boot_silent",
        "vm.off_in_first_boot",
        "vm.shutdown_ignored",
        "vm.not_saved",
    }
)
# How long the hash of a failed machine's first password is kept, for "try again".
PASSWORD_KEPT = timedelta(hours=1)


def succeeded(job: Job) -> None:
    vm = job.vm
    if vm is None:
        return
    VM.objects.filter(pk=vm.pk).update(fault_code="", fault_params={}, fault_ref="", fault_at=None)
    quotas.activate(vm)
    warn(job)
    timeline.record(vm, "job.succeeded", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)


def failed(job: Job) -> None:
    """All steps are undone: nothing of it is left on the host, so its name, its room and its
    quota are free again. The row stays, deleted, for the record.

    Where an undo was given up something may be left: then the machine counts on, and a delete
    that waits for its host, however long, ends it."""
    vm = job.vm
    if vm is None:
        return
    timeline.record(vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
    if job.warning_code == CLEANUP_INCOMPLETE:
        VM.objects.filter(pk=vm.pk).update(desired=VM.Desired.DELETED)
        quotas.releasing(vm)
        job_services.enqueue("vm.delete", actor=job.actor, vm=vm, target_name=vm.name, cleanup=True)
        state.announce(vm)
        return
    quotas.release(vm)
    PublishedPort.objects.filter(vm=vm).delete()
    VM.objects.filter(pk=vm.pk).update(
        deleted_at=timezone.now(), desired=VM.Desired.DELETED, seed_volume=""
    )
    state.announce(vm)


def again(job: Job) -> Job:
    """A new machine from the same input. Raises as ``request_vm`` does."""
    vm = job.vm
    actor = job.actor
    if vm is None or actor is None or (vm.image is None and job.params.get("image", True)):
        raise NotFound("vm.not_found")
    policy.require(actor, Action.TEAM_CREATE_VM, vm.team)
    if job.params.get("password") and not vm.password_hash:
        raise Conflict("vm.retry_password_gone", name=vm.name)
    problems = Problems()
    hardware = knobs.of_machine(vm, macs=job.params.get("macs", ()))
    for image in (vm.image, *hardware.discs):
        if image is not None and image.state != Image.State.READY:
            problems.add("image", "vm.image_not_ready", name=image.name)
        elif image is not None and not _may_use(actor, image):
            problems.add("image", "vm.image_unknown", name=image.name)
    usable = usable_networks()
    for card in hardware.cards:
        if card.network not in usable:
            problems.add("network", "vm.network_unknown", name=card.network)
    problems.raise_if_any()
    wanted = Wanted(
        actor=actor,
        team=vm.team,
        name=vm.name,
        hostname=vm.hostname,
        image=vm.image,
        flavor=vm.flavor,
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        hardware=hardware,
        copy=vm.copy,
        user=vm.first_user,
        password_hash=vm.password_hash,
        ssh_keys=tuple(vm.ssh_keys),
        user_data=vm.user_data,
        start=bool(job.params.get("start", True)),
        tags=tuple(vm.tags.values_list("name", flat=True)),
        description=vm.description,
        ends_at=_end_again(vm),
        batch=vm.batch,
        batch_number=vm.batch_number,
    )
    _made, new = write(wanted, idempotency_key=None, digest="")
    VM.objects.filter(pk=vm.pk).update(password_hash="")
    return new


def _may_use(actor: User, image: Image) -> bool:
    """A backup is used by those who may restore it, as long as they may."""
    backup = Backup.objects.select_related("vm").filter(image=image).first()
    if backup is not None:
        return policy.can(actor, Action.EDIT, backup.vm)
    return policy.can(actor, Action.IMAGE_USE, image)


def _end_again(vm: VM) -> datetime | None:
    """As it was to end, unless that is past."""
    now = timezone.now()
    if vm.ends_at is not None and vm.ends_at > now:
        return vm.ends_at
    return Rulebook.read().terms_of(vm).first_end(now)


def warn(job: Job) -> None:
    """What an observing step has noted becomes the job's warning: done, but..."""
    for step in job.steps.all():
        note = dict(step.note)
        code = note.pop("code", "")
        if code in WARNINGS and not job.warning_code:
            Job.objects.filter(pk=job.pk).update(warning_code=code, error_params=note)
            return


def forget_passwords() -> None:
    """Called by the reconciler: nobody tried that failed machine again."""
    gone = VM.objects.filter(deleted_at__lt=timezone.now() - PASSWORD_KEPT)
    gone.exclude(password_hash="", answers="").update(password_hash="", answers="")
