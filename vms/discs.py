"""The disc in a machine's drive: what it is installed from, or what somebody has put in.

What it is installed from is ejected by itself after the guest's first reboot: an installer ends
with one, and the firmware would boot the installer again. What was put in by hand stays.

Debian's installer with a preseed is started from a kernel of its own, which a restart of the guest
would start again. So its machine goes off at the end, is then brought in line, and is started.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Q

from accounts import audit, policy, quotas
from accounts.errors import Busy, Conflict, DomainError, Invalid, QuotaExceeded
from accounts.policy import Action
from hosts.virt.errors import NoSuchDomain
from jobs import services as job_services
from vms import answers, at_host, power, state, timeline
from vms.hardware import rules
from vms.lifecycle import active_job
from vms.models import VM, Image
from vms.provisioning import steps
from vms.provisioning.domain import ISO_TARGET, SEED_TARGET, is_installing

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from accounts.models import User
    from hosts.models import Pool
    from hosts.virt.protocol import Hypervisor
    from jobs.context import JobContext
    from jobs.models import Job

KIND = "vm.eject"
INSERT = "vm.insert"
STARTS = frozenset({"vm.create", "vm.start", "vm.start_paused", "vm.resume"})


def choices(user: User) -> QuerySet[Image, Image]:
    """The discs that a person may put in."""
    return Image.objects.visible_to(user).filter(kind=Image.Kind.ISO, state=Image.State.READY)


def choice(user: User, pk: int) -> Image:
    found = choices(user).filter(pk=pk).first()
    if found is None:
        raise Invalid("disc.unknown", fields={"disc": "disc.unknown"})
    return found


def insert(vm: VM, *, actor: User, image: Image) -> Job:
    """Put a disc of the catalogue into its drive, running or not, in the place of the one that is
    there. The image is brought to its host where it is not there yet.

    Raises NotFound, Forbidden, Invalid, Conflict (``vm.why.*``), Busy."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        # Locked, and then the job's: it is not deleted before it is in the drive.
        Image.objects.select_for_update().filter(pk=image.pk).first()
        choice(actor, image.pk)
        rows = VM.objects.alive().select_for_update(of=("self",)).select_related("iso", "host")
        row = rows.filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if code := rules.why_not(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        before = {"disc": row.iso.name if row.iso else None}
        after = {"disc": image.name}
        params = {"image": image.pk, "before": before, "after": after}
        job = job_services.enqueue(
            INSERT, actor=actor, vm=row, image=image, target_name=row.name, params=params
        )
        audit.record(actor, INSERT, row, before=before, after=after, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=INSERT)
        state.announce(row)
    return job


def eject(vm: VM, *, actor: User | None) -> Job:
    """Take the disc out, running or not. ``actor`` None: the guest has rebooted.

    Raises NotFound, Forbidden, Conflict (``vm.no_disc``, ``vm.why.*``), Busy."""
    if actor is not None:
        policy.require(actor, Action.POWER, vm)
    with transaction.atomic():
        row = (
            VM.objects.alive()
            .select_for_update(of=("self",))
            .select_related("iso")
            .filter(pk=vm.pk)
            .first()
        )
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if row.iso is None:
            raise Conflict("vm.no_disc", name=vm.name)
        if row.answers_kind == answers.PRESEED and row.observed in state.ON:
            raise Conflict("vm.why.installing", name=row.name)
        if code := rules.why_not(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        job = job_services.enqueue(
            KIND, actor=actor, vm=row, target_name=row.name, params={"disc": row.iso.name}
        )
        audit.record(actor, KIND, row, before={"disc": row.iso.name}, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=KIND)
        state.announce(row)
    return job


def after_reboot(vm: VM) -> None:
    """The watcher saw its guest reboot."""
    if not is_installing(vm):
        return
    try:
        eject(vm, actor=None)
    except (Busy, Conflict):
        return  # something else is being done with it; a person can eject it


def after_stop(vm: VM) -> None:
    """It is off. Where Debian's installer was at work, and nobody here stopped it, that has ended:
    its kernel and the disc go, and the machine starts from its disk, unless its answers ask for it
    to stay off or the quota says no."""
    if not _is_preseeded(vm):
        return
    try:
        _end_installation(vm)
    except (Busy, Conflict):
        return  # something else is being done with it; the reconciler looks again


def _end_installation(vm: VM) -> None:
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        rows = VM.objects.alive().select_for_update(of=("self",)).select_related("iso", "host")
        row = rows.filter(pk=vm.pk).first()
        if row is None or not _has_installed(row) or rules.why_not(row, active_job(row)):
            return
        params = {
            "disc": row.iso.name if row.iso else "",
            "start": not answers.ends_off(row.answers) and _may_run(row),
        }
        job = job_services.enqueue(KIND, actor=None, vm=row, target_name=row.name, params=params)
        if params["start"]:
            VM.objects.filter(pk=row.pk).update(desired=VM.Desired.RUNNING)
        audit.record(None, KIND, row, before=params, job=job, team_id=row.team_id)
        timeline.record(row, "asked", job=job, task=KIND)
        state.announce(row)


def look_after_installers() -> None:
    """Those that have ended while no watcher looked."""
    for vm in (
        VM.objects.alive()
        .filter(answers_kind=answers.PRESEED, observed=VM.Observed.SHUTOFF)
        .exclude(seed_volume="")
    ):
        after_stop(vm)


def _is_preseeded(vm: VM) -> bool:
    return vm.answers_kind == answers.PRESEED and bool(vm.seed_volume)


def _has_installed(vm: VM) -> bool:
    """Its guest has ended by itself: not by a person here, nor because its host went down."""
    since = vm.observed_at
    off = vm.observed == VM.Observed.SHUTOFF and vm.observed_reason == "shutdown"
    if not _is_preseeded(vm) or not off or since is None:
        return False
    at_work = Q(finished_at=None) | Q(finished_at__gte=since - state.JUST_ENDED)
    # A job that has just started it did not end it; one of ours for this end is enough.
    return not vm.jobs.exclude(kind__in=STARTS).filter(at_work).exists()


def _may_run(vm: VM) -> bool:
    try:
        with transaction.atomic():
            quotas.release(vm, state.RUNNING_RESOURCES)
            quotas.allocate(vm, state.running_ask(vm.vcpus, vm.memory_mib))
    except QuotaExceeded:
        return False
    return True


def starts_again(ctx: JobContext) -> bool:
    return bool(ctx.params.get("start"))


def start_installed(ctx: JobContext) -> None:
    if ctx.job.vm_id is not None:
        _forget(ctx.job.vm_id)
    power.start(ctx)


def bring(ctx: JobContext) -> None:
    pool = _pool(ctx)
    steps.bring(ctx, _image(ctx), pool)


def put_in(ctx: JobContext) -> None:
    vm, image, pool = at_host.machine(ctx), _image(ctx), _pool(ctx)
    at = at_host.hypervisor(vm)
    target = ctx.data.get("target") or _free_drive(vm, at)
    ctx.save_data(target=target)
    at.load_cdrom(vm.uuid, target, pool.name, image.volume_name)


def settle(vm: VM, at: Hypervisor, pool: str) -> None:
    """Its drives hold what its row says, and its seed. Idempotent."""
    holder = vm.iso_target or ISO_TARGET
    others = set(vm.extra_discs.values_list("target", flat=True))
    for drive in at.domain(vm.uuid).disks:
        if drive.device != "cdrom" or drive.target in others:
            continue
        if vm.iso is not None and drive.target == holder:
            at.load_cdrom(vm.uuid, drive.target, pool, vm.iso.volume_name)
        elif drive.source and drive.volume != (vm.seed_volume or None):
            at.eject_cdrom(vm.uuid, drive.target)


def take_back(ctx: JobContext) -> None:
    """The undo of ``put_in``: its drive has what its row says. Others are not ours to empty."""
    vm, target = at_host.machine(ctx), ctx.data.get("target")
    if not target:
        return
    at = at_host.hypervisor(vm)
    with suppress(NoSuchDomain):
        if vm.iso is not None and target == (vm.iso_target or ISO_TARGET):
            at.load_cdrom(vm.uuid, target, _pool(ctx).name, vm.iso.volume_name)
        else:
            at.eject_cdrom(vm.uuid, target)


def was_put_in(job: Job) -> None:
    if job.vm is not None:
        now = {"iso": job.params["image"], "iso_target": job.data["target"]}
        VM.objects.filter(pk=job.vm.pk).update(**now)
    power.succeeded(job)


def take_out(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    with suppress(NoSuchDomain):  # then nothing holds it any more
        at.eject_cdrom(vm.uuid, vm.iso_target or ISO_TARGET)
        if vm.answers_kind == answers.PRESEED:
            at.forget_kernel(vm.uuid)
        elif vm.answers_kind and vm.seed_volume:
            at.eject_cdrom(vm.uuid, SEED_TARGET)
    if vm.answers_kind:
        steps.remove_seed(vm)


def taken_out(job: Job) -> None:
    if job.vm is not None:
        _forget(job.vm.pk)
    power.succeeded(job)


def _forget(pk: int) -> None:
    VM.objects.filter(pk=pk).update(iso=None, iso_target="", answers_kind="", answers="")


def _free_drive(vm: VM, at: Hypervisor) -> str:
    """Where its disc is, else the first drive that is empty: a seed is never thrown out."""
    drives = {d.target: d for d in at.domain(vm.uuid).disks if d.device == "cdrom"}
    holder = vm.iso_target or ISO_TARGET
    if vm.iso_id is not None and holder in drives:
        return holder
    empty = sorted(target for target, drive in drives.items() if not drive.source)
    if not empty:
        raise DomainError("vm.no_drive", name=vm.name)
    return empty[0]


def _image(ctx: JobContext) -> Image:
    return Image.objects.get(pk=ctx.params["image"])


def _pool(ctx: JobContext) -> Pool:
    """Beside its first disk."""
    disk = at_host.machine(ctx).disks.select_related("pool__host").order_by("target").first()
    if disk is None or disk.pool is None:
        raise DomainError("vm.no_drive", name=ctx.job.target_name)
    return disk.pool
