"""What people do with backups. Each is one transaction; the copying is a job's."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError, Invalid, NotFound
from accounts.models import Resource
from accounts.policy import Action
from jobs import reconcile
from jobs import services as job_services
from jobs.models import Job
from vms import knobs, provisioning, queries, state, timeline
from vms.backups import retention
from vms.lifecycle import active_job
from vms.models import VM, Backup, BackupPlan, Disk, Image, ImageCopy
from vms.provisioning.validation import GIB
from vms.snapshots import rules

if TYPE_CHECKING:
    from accounts.models import User

log = logging.getLogger(__name__)

TAKE, RESTORE = "vm.backup", "vm.restore_backup"
DELETE = "image.delete"
KEEP_MAX = 60
DAILY, WEEKLY = 1, 7
# A round that could not be begun (the machine is busy, its host away) is tried again then.
AGAIN_AFTER = timedelta(minutes=30)
ROUNDS_AT_ONCE = 20


def why_not_take(vm: VM, active: Job | None) -> str | None:
    """The code of why it cannot be backed up now; running or not makes no difference."""
    return rules.why_not(vm, active) or _why_not_disks(vm)


def why_not_restore(vm: VM, active: Job | None) -> str | None:
    """The code of why a backup cannot be put over the machine now."""
    if code := why_not_take(vm, active):
        return code
    if rules.is_on(vm):
        return "vm.why.backup_on"
    return "vm.why.backup_snapshots" if vm.snapshots.exists() else None


def take(vm: VM, *, actor: User | None, scheduled: bool = False) -> tuple[Backup, Job]:
    """A backup of the machine as it is. ``actor`` None: by its plan.

    Raises NotFound, Forbidden, Conflict (``vm.why.*``), Busy, QuotaExceeded."""
    if actor is not None:
        policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = _locked(vm)
        if code := why_not_take(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        backup = _write(row, actor, scheduled=scheduled)
        job = job_services.enqueue(
            TAKE,
            actor=actor,
            vm=row,
            image=backup.image,
            target_name=row.name,
            params={"backup": backup.pk},
            queue="bulk",
        )
        audit.record(
            actor, TAKE, row, after={"backup": backup.number}, job=job, team_id=row.team_id
        )
        timeline.record(row, "asked", actor=actor, job=job, task=TAKE)
        state.announce(row)
    return backup, job


def why_not_keep(vm: VM) -> str | None:
    """The code of why its disk cannot be kept as a backup when it is deleted for good."""
    if vm.observed in (VM.Observed.MISSING, VM.Observed.UNKNOWN):
        return f"vm.why.{vm.observed}"
    return _why_not_disks(vm)


def write_last(vm: VM, *, actor: User) -> dict[str, int]:
    """The rows of the backup that its deletion takes first; what its job is to be told. In the
    caller's transaction, with the team's row locked. Raises Conflict, QuotaExceeded."""
    if code := why_not_keep(vm):
        raise Conflict(code, name=vm.name)
    return {"backup": _write(vm, actor, scheduled=False).pk}


def restore_over(backup: Backup, *, actor: User) -> Job:
    """The machine's disk becomes that of the backup; what it holds now is lost.

    Raises NotFound, Forbidden, Conflict (``vm.why.*``, ``backup.not_ready``), Busy."""
    vm = backup.vm
    policy.require(actor, Action.DELETE, vm)  # what is there now is lost
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = _locked(vm)
        if code := why_not_restore(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        kept, disk = _ready(backup), row.disks.all()[0]
        job = job_services.enqueue(
            RESTORE,
            actor=actor,
            vm=row,
            target_name=row.name,
            params={"backup": kept.pk, "target": disk.target, "was": disk.volume},
            queue="bulk",
        )
        audit.record(
            actor, RESTORE, row, after={"backup": kept.number}, job=job, team_id=row.team_id
        )
        timeline.record(row, "backup.restoring", actor=actor, job=job, number=kept.number)
        state.announce(row)
    return job


def restore_as_new(
    backup: Backup, *, actor: User, name: str, start: bool = False
) -> tuple[VM, Job]:
    """A machine of the same team and size, with an identity of its own, from the backup's disk.

    Raises as ``provisioning.request_vm``."""
    vm = backup.vm
    policy.require(actor, Action.EDIT, vm)
    kept = _ready(backup)
    nics = list(vm.nics.all())
    made = provisioning.request_vm(
        actor=actor,
        team=vm.team,
        name=name,
        image=kept.image,
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        disk_gib=kept.image.min_disk_gib,
        network=nics[0].network if nics else "default",
        copy=VM.Copy.FULL,
        start=start,
        image_allowed=True,
    )
    timeline.record(made[0], "backup.made_from", actor=actor, name=vm.name, number=kept.number)
    return made


def delete(backup: Backup, *, actor: User | None) -> Job:
    """``actor`` None: its plan keeps fewer."""
    if actor is not None:
        policy.require(actor, Action.DELETE, backup.vm)
    with transaction.atomic():
        quotas.lock_team(backup.vm.team_id)
        image = Image.objects.select_for_update().get(pk=backup.image_id)
        if Job.objects.active().filter(image=image).exists():
            raise Conflict("image.busy", name=image.name)
        if _is_read(backup):
            raise Conflict("backup.in_use", number=backup.number)
        Image.objects.filter(pk=image.pk).update(state=Image.State.RETIRED)
        job = job_services.enqueue(
            DELETE,
            actor=actor,
            image=image,
            team=backup.vm.team,
            target_name=image.name,
            params={"image": image.pk},
        )
        audit.record(
            actor,
            "vm.delete_backup",
            backup.vm,
            before={"backup": backup.number},
            job=job,
            team_id=backup.vm.team_id,
        )
        state.announce(backup.vm)
    return job


def plan(
    vm: VM,
    *,
    actor: User,
    every_days: int,
    keep: int,
    keep_daily: int = 0,
    keep_weekly: int = 0,
) -> BackupPlan | None:
    """A backup each day or week; ``every_days`` 0 ends it. Of those that it makes stay the last
    ``keep``, and the newest of each of ``keep_daily`` days and ``keep_weekly`` weeks."""
    policy.require(actor, Action.EDIT, vm)
    if every_days not in {0, DAILY, WEEKLY}:
        raise Invalid("backup.plan_every", fields={"every_days": "backup.plan_every"})
    if not 1 <= keep <= KEEP_MAX:
        raise Invalid("backup.plan_keep", fields={"keep": "backup.plan_keep"}, limit=KEEP_MAX)
    for field, amount in (("keep_daily", keep_daily), ("keep_weekly", keep_weekly)):
        if not 0 <= amount <= KEEP_MAX:
            raise Invalid("backup.plan_also", fields={field: "backup.plan_also"}, limit=KEEP_MAX)
    wanted = {
        "every_days": every_days,
        "keep": keep,
        "keep_daily": keep_daily,
        "keep_weekly": keep_weekly,
    }
    with transaction.atomic():
        row = _locked(vm)
        if row.binned_at is not None:
            raise Conflict("vm.why.binned", name=row.name)
        before = BackupPlan.objects.filter(vm=row).first()
        was = {name: getattr(before, name) for name in wanted} if before else {}
        if every_days == 0:
            BackupPlan.objects.filter(vm=row).delete()
            made = None
        else:
            # Other numbers do not change when the next one is due.
            due = before.next_at if before and before.every_days == every_days else timezone.now()
            made, _new = BackupPlan.objects.update_or_create(
                vm=row, defaults=wanted | {"next_at": due}
            )
        audit.record(
            actor,
            "vm.backup_plan",
            row,
            before=was,
            after=wanted if made else {},
            team_id=row.team_id,
        )
        state.announce(row)
    return made


def machine(user: User, uuid: UUID | str) -> VM:
    """Whose backups they are. One that was deleted for good is found as long as it has any.

    NotFound, also when it is not for ``user``."""
    try:
        return queries.one(user, uuid)
    except NotFound:
        row = next((kept.vm for kept in outliving(user) if str(kept.vm.uuid) == str(uuid)), None)
        if row is None:
            raise
        return row


def outliving(user: User) -> list[Backup]:
    """Backups of machines that were deleted for good, the newest first, of those that ``user``
    could see."""
    rows = Backup.objects.filter(vm__deleted_at__isnull=False)
    if not user.is_admin:
        teams = user.memberships.values("team")
        rows = rows.filter(Q(vm__owner=user) | Q(vm__team__in=teams))
    related = rows.select_related("image", "vm__team", "vm__owner", "vm__host", "created_by")
    return list(related.order_by("-created_at", "-pk"))


def find(vm: VM, number: int) -> Backup:
    """One of a machine that the person may see already."""
    row = vm.backups.select_related("image", "vm__team", "vm__host").filter(number=number).first()
    if row is None:
        raise NotFound("backup.not_found")
    return row


def rounds() -> None:
    """Called by the reconciler: begin what is due."""
    now = timezone.now()
    due = BackupPlan.objects.filter(
        next_at__lte=now, vm__deleted_at__isnull=True, vm__binned_at__isnull=True
    ).select_related("vm__team")
    for one in due[:ROUNDS_AT_ONCE]:
        try:
            take(one.vm, actor=None, scheduled=True)
        except DomainError as error:  # noqa: PERF203 - each is settled for itself
            log.info("no backup of %s yet: %s", one.vm.uuid, error.code)
            BackupPlan.objects.filter(pk=one.pk).update(next_at=now + AGAIN_AFTER)
        else:
            following = now + timedelta(days=one.every_days)
            BackupPlan.objects.filter(pk=one.pk).update(next_at=following)


def forget_old(vm: VM) -> None:
    """Of those that its plan made, what it says stays. One that is in use stays until the next
    time."""
    found = BackupPlan.objects.filter(vm=vm).first()
    if found is None:
        return
    made = vm.backups.filter(scheduled=True, image__state=Image.State.READY)
    rows = list(made.select_related("image", "vm__team"))
    kept = retention.to_keep(
        [(row.number, row.created_at) for row in rows],
        last=found.keep,
        daily=found.keep_daily,
        weekly=found.keep_weekly,
    )
    for old in rows:
        if old.number in kept:
            continue
        try:
            delete(old, actor=None)
        except DomainError as error:
            log.info("backup %s of %s stays: %s", old.number, vm.uuid, error.code)


def subject(backup: Backup) -> str:
    """Under which its quota is held."""
    return f"backup:{backup.pk}"


def subjects(vm: VM) -> list[str]:
    """Of all its backups: they change hands with it."""
    return [subject(backup) for backup in vm.backups.all()]


def forget(image: Image) -> None:
    """Its file is gone, or never came to be. In the caller's transaction; the rows go with it."""
    backup = Backup.objects.filter(image=image).first()
    if backup is not None:
        quotas.release_subject(subject(backup))
        backup.delete()


def register() -> None:
    reconcile.register_reconciler(rounds)


# --- inside --------------------------------------------------------------------------------------


def _why_not_disks(vm: VM) -> str | None:
    disks = list(vm.disks.all())
    return None if len(disks) == 1 and disks[0].format == "qcow2" else "vm.why.backup_disks"


def _locked(vm: VM) -> VM:
    row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    return row


def _ready(backup: Backup) -> Backup:
    row = Backup.objects.select_related("image", "vm__team").get(pk=backup.pk)
    if row.image.state != Image.State.READY:
        raise Conflict("backup.not_ready", number=row.number)
    return row


def _is_read(backup: Backup) -> bool:
    """Whether a machine is being restored from it."""
    over = Job.objects.active().filter(kind=RESTORE, params__backup=backup.pk)
    making = Job.objects.active().filter(kind="vm.create", vm__image=backup.image_id)
    return over.exists() or making.exists()


def _write(vm: VM, actor: User | None, *, scheduled: bool) -> Backup:
    disk: Disk = vm.disks.select_related("pool")[0]
    if disk.pool is None:
        raise Conflict("vm.why.unknown")
    newest = vm.backups.order_by("-number").first()
    number = newest.number + 1 if newest else 1
    source = vm.image
    image = Image.objects.create(
        name=f"backup {number} of {vm.uuid!s}"[:64],
        source=Image.Source.BACKUP,
        state=Image.State.NEW,
        format="qcow2",
        os_id=source.os_id if source else "linux",
        icon=source.icon if source else "linux",
        arch=source.arch if source else "x86_64",
        virtual_size_bytes=disk.size_gib * GIB,
        min_disk_gib=disk.size_gib,
        recommended_disk_gib=disk.size_gib,
        default_user=vm.first_user,
        hardware=knobs.of_copies(vm),
        has_cloud_init=source.has_cloud_init if source else True,
        created_by=actor,
    )
    ImageCopy.objects.create(image=image, pool=disk.pool, state=ImageCopy.State.COPYING)
    backup = Backup.objects.create(
        vm=vm,
        image=image,
        number=number,
        scheduled=scheduled,
        was_running=rules.is_on(vm),
        created_by=actor,
    )
    quotas.allocate_for(
        subject(backup),
        {Resource.BACKUPS_GIB: disk.size_gib},
        team=vm.team,
        user=actor or vm.owner,
    )
    return backup
