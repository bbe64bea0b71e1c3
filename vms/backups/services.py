"""What people do with backups. Each is one transaction; the copying is a job's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError, Invalid, NotFound
from accounts.models import Resource
from accounts.policy import Action
from jobs import services as job_services
from jobs.models import Job
from vms import knobs, nvram, provisioning, queries, state, timeline
from vms.backups import retention
from vms.hardware import requests as hardware
from vms.knobs import DiskWish, Wish
from vms.lifecycle import active_job
from vms.models import VM, Backup, BackupDisk, BackupPlan, Disk, Image, ImageCopy
from vms.provisioning.validation import GIB
from vms.snapshots import rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet

    from accounts.models import User
    from hosts.models import Pool

log = logging.getLogger(__name__)

TAKE, RESTORE = "vm.backup", "vm.restore_backup"
DELETE = "image.delete"
KEEP_MAX = 60
DAILY, WEEKLY = 1, 7
ATTACHABLE_MOST = 500  # machines that a dialog offers


def why_not_take(vm: VM, active: Job | None) -> str | None:
    """The code of why it cannot be backed up now; running or not makes no difference."""
    return rules.why_not(vm, active) or _why_not_disks(list(vm.disks.all())) or _why_not_place(vm)


def why_not_restore(vm: VM, active: Job | None) -> str | None:
    """The code of why a backup cannot be put over the machine now."""
    if code := rules.why_not(vm, active):
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
        disks = list(row.disks.select_related("pool"))
        backup = _write(row, disks, actor, scheduled=scheduled, was_running=rules.is_on(row))
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


def why_not_keep(vm: VM, disk: Disk) -> str | None:
    """The code of why this disk cannot be kept as a backup when its machine is deleted for good."""
    if vm.observed in (VM.Observed.MISSING, VM.Observed.UNKNOWN):
        return f"vm.why.{vm.observed}"
    return "vm.why.backup_disk" if disk.format != "qcow2" else _why_not_place(vm)


def write_last(vm: VM, targets: Iterable[str], *, actor: User) -> dict[str, int]:
    """The rows of the backup of these disks that its deletion takes first; what its job is to be
    told. In the caller's transaction, with the team's row locked.

    Raises Conflict, NotFound (a disk that it does not have), QuotaExceeded."""
    wanted, disks = set(targets), list(vm.disks.select_related("pool"))
    if not wanted <= {disk.target for disk in disks}:
        raise NotFound("hardware.disk_unknown")
    kept = [disk for disk in disks if disk.target in wanted]
    for disk in kept:
        if code := why_not_keep(vm, disk):
            raise Conflict(code, name=vm.name, host=vm.host.name if vm.host else "")
    if not kept:
        return {}
    return {"backup": _write(vm, kept, actor, scheduled=False, was_running=False).pk}


def restore_over(backup: Backup, *, actor: User) -> Job:
    """The machine's disks become those of the backup; what they hold now is lost. One that was
    taken out since comes back, one that was added since stays as it is. None gets smaller.

    Raises NotFound, Forbidden, Conflict (``vm.why.*``, ``backup.not_ready``), Busy,
    QuotaExceeded."""
    vm = backup.vm
    policy.require(actor, Action.DELETE, vm)  # what is there now is lost
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = _locked(vm)
        if code := why_not_restore(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        kept = _ready(backup)
        place = place_of(kept.image)
        if place is None or place.host_id != row.host_id:
            raise Conflict(
                "backup.other_host", name=row.name, host=place.host.name if place else ""
            )
        swaps, more_gib = _swaps(row, kept)
        quotas.allocate(row, {Resource.DISK_GIB: more_gib})
        job = job_services.enqueue(
            RESTORE,
            actor=actor,
            vm=row,
            target_name=row.name,
            params={
                "backup": kept.pk,
                "disks": swaps,
                "nvram": nvram.fits(kept.image, row.firmware),
            },
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
    """A machine of the same team and size, with an identity of its own, from the backup's disks.

    Raises as ``provisioning.request_vm``, and Conflict (``backup.no_system``)."""
    vm = backup.vm
    policy.require(actor, Action.EDIT, vm)
    kept = _ready(backup)
    if not kept.has_system:
        raise Conflict("backup.no_system", number=kept.number)
    nics = list(vm.nics.all())
    more = tuple(DiskWish(size_gib=image.min_disk_gib) for _target, image in kept.files[1:])
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
        wish=Wish(disks=more),
    )
    timeline.record(made[0], "backup.made_from", actor=actor, name=vm.name, number=kept.number)
    return made


def take_ask(disks: Iterable[Disk]) -> quotas.Ask:
    """What a backup of these disks takes of the quota: their size, however little is on them."""
    return {Resource.BACKUPS_GIB: sum(disk.size_gib for disk in disks)}


def restore_ask(backup: Backup) -> quotas.Ask:
    """What putting it over its machine takes: the disks that have to grow, or come back."""
    return {Resource.DISK_GIB: _swaps(backup.vm, backup)[1]}


def attach(backup: Backup, *, actor: User, to: VM, target: str = "") -> tuple[Disk, Job]:
    """A copy of one of its disks becomes a further disk of a machine on the same host. ``target``
    "": of its only one.

    Raises NotFound, Forbidden, Conflict (``backup.other_host``, ...), Busy, QuotaExceeded."""
    policy.require(actor, Action.EDIT, backup.vm)
    image = file_of(_ready(backup), target)
    place = place_of(image)
    if place is None or to.host_id != place.host_id:
        host = place.host.name if place else ""
        raise Conflict("backup.other_host", name=to.name, host=host)
    return hardware.add_copy(to, actor=actor, image=image, backup_id=backup.pk)


def attachable(backup: Backup, user: User) -> list[VM]:
    """The machines that its disks may be added to: on its host, and ``user`` may change them."""
    place = place_of(backup.image)
    if place is None:
        return []
    door = policy.door(user)
    rows = VM.objects.visible_to(user).in_use().filter(host=place.host_id)
    related = rows.select_related("owner", "team").order_by("name")[:ATTACHABLE_MOST]
    return [vm for vm in related if door.can(Action.EDIT, vm)]


def with_files(rows: QuerySet[Backup, Backup]) -> list[Backup]:
    """With all that lists show, by a bounded number of queries."""
    return list(files_with(rows))


def files_with(rows: QuerySet[Backup, Backup]) -> QuerySet[Backup, Backup]:
    """``with_files``, for a page of them."""
    return rows.prefetch_related("more__image", "image__copies__pool")


def place_name(backup: Backup) -> str:
    """Of the pool where it lies, of a row that ``with_files`` has read."""
    return next((copy.pool.name for copy in backup.image.copies.all()), "")


def place_of(image: Image) -> Pool | None:
    """Where a backup's file lies."""
    copy = ImageCopy.objects.select_related("pool__host").filter(image=image).first()
    return copy.pool if copy else None


def file_of(backup: Backup, target: str) -> Image:
    """One of its disks; "": its only one. NotFound."""
    files = backup.files
    if not target and len(files) == 1:
        return files[0][1]
    found = next((image for name, image in files if name == target), None)
    if found is None:
        raise NotFound("hardware.disk_unknown")
    return found


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
        ids = [kept.pk for _target, kept in backup.files]
        Image.objects.filter(pk__in=ids).update(state=Image.State.RETIRED)
        job = job_services.enqueue(
            DELETE,
            actor=actor,
            image=image,
            team=backup.vm.team,
            target_name=image.name,
            params={"image": image.pk, "more": ids[1:]},
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
        if what := timeline.changes(was, wanted if made else {}):
            timeline.record(row, "edited", actor=actor, what=what)
        state.announce(row)
    return made


def machine(user: User, uuid: UUID | str) -> VM:
    """Whose backups they are. One that was deleted for good is found as long as it has any.

    NotFound, also when it is not for ``user``."""
    try:
        return queries.one(user, uuid)
    except NotFound:
        kept = outliving_rows(user).filter(vm__uuid=queries.as_uuid(uuid)).first()
        if kept is None:
            raise
        return kept.vm


def outliving(user: User) -> list[Backup]:
    """Backups of machines that were deleted for good, the newest first, of those that ``user``
    could see."""
    return with_files(outliving_rows(user))


def outliving_rows(user: User) -> QuerySet[Backup, Backup]:
    rows = Backup.objects.filter(vm__deleted_at__isnull=False)
    if not user.is_admin:
        teams = user.memberships.values("team")
        rows = rows.filter(Q(vm__owner=user) | Q(vm__team__in=teams))
    related = rows.select_related("image", "vm__team", "vm__owner", "vm__host", "created_by")
    return related.order_by("-created_at", "-pk")


def find(vm: VM, number: int) -> Backup:
    """One of a machine that the person may see already."""
    rows = vm.backups.select_related("image", "vm__team", "vm__host").filter(number=number)
    row = rows.prefetch_related("more__image").first()
    if row is None:
        raise NotFound("backup.not_found")
    return row


def forget_old(vm: VM) -> None:
    """Of those that its plan made, what it says stays. One that is in use stays until the next
    time."""
    found = BackupPlan.objects.filter(vm=vm).first()
    if found is None:
        return
    made = vm.backups.filter(scheduled=True, image__state=Image.State.READY)
    rows = list(made.select_related("image", "vm__team").prefetch_related("more__image"))
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
    """One of its files is gone, or never came to be. In the caller's transaction; with the last one
    the backup's rows go, and what it took of the quota."""
    if BackupDisk.objects.filter(image=image).delete()[0]:
        return
    backup = Backup.objects.filter(image=image).first()
    if backup is None:
        return
    following = backup.more.select_related("image").first()
    if following is None:
        quotas.release_subject(subject(backup))
        backup.delete()
        return
    kept, target = following.image, following.target
    following.delete()
    Backup.objects.filter(pk=backup.pk).update(image=kept, target=target)


# --- inside --------------------------------------------------------------------------------------


def _why_not_disks(disks: list[Disk]) -> str | None:
    whole = disks and all(disk.format == "qcow2" for disk in disks)
    return None if whole else "vm.why.backup_disks"


def _why_not_place(vm: VM) -> str | None:
    chosen = vm.host.backup_pool if vm.host else None
    return "vm.why.backup_place" if chosen is not None and not chosen.active else None


def _swaps(vm: VM, backup: Backup) -> tuple[list[dict[str, Any]], int]:
    """What takes the place of which disk (``vms.replacing``), and by how many GiB they grow."""
    disks = {disk.target: disk for disk in vm.disks.all()}
    swaps, more_gib = [], 0
    for target, image in backup.files:
        disk = disks.get(target)
        has_gib = disk.size_gib if disk else 0
        size_gib = max(has_gib, image.min_disk_gib)
        more_gib += size_gib - has_gib
        swaps.append({"target": target, "was": disk.volume if disk else "", "size_gib": size_gib})
    return swaps, more_gib


def _locked(vm: VM) -> VM:
    row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    return row


def _ready(backup: Backup) -> Backup:
    rows = Backup.objects.select_related("image", "vm__team").prefetch_related("more__image")
    row = rows.get(pk=backup.pk)
    if row.image.state != Image.State.READY:
        raise Conflict("backup.not_ready", number=row.number)
    return row


def _is_read(backup: Backup) -> bool:
    """Whether a machine, or a disk of one, is being made from it."""
    over = Job.objects.active().filter(
        kind__in=[RESTORE, hardware.DISK_FROM_BACKUP], params__backup=backup.pk
    )
    making = Job.objects.active().filter(kind="vm.create", vm__image=backup.image_id)
    return over.exists() or making.exists()


def _write(
    vm: VM, disks: list[Disk], actor: User | None, *, scheduled: bool, was_running: bool
) -> Backup:
    """The rows of a backup of these disks, the first among them first."""
    newest = vm.backups.order_by("-number").first()
    number = newest.number + 1 if newest else 1
    images = [_write_file(vm, disk, number, actor) for disk in disks]
    first = vm.disks.all()[0]
    backup = Backup.objects.create(
        vm=vm,
        image=images[0],
        target=disks[0].target,
        has_system=disks[0].target == first.target,
        number=number,
        scheduled=scheduled,
        was_running=was_running,
        created_by=actor,
    )
    for disk, image in zip(disks[1:], images[1:], strict=True):
        BackupDisk.objects.create(backup=backup, image=image, target=disk.target)
    quotas.allocate_for(
        subject(backup),
        take_ask(disks),
        team=vm.team,
        user=vm.owner,
    )
    return backup


def _write_file(vm: VM, disk: Disk, number: int, actor: User | None) -> Image:
    """Of one disk: the image, and where it will lie."""
    chosen = vm.host.backup_pool if vm.host else None
    pool = chosen or disk.pool
    if pool is None:
        raise Conflict("vm.why.unknown")
    source = vm.image
    image = Image.objects.create(
        name=f"backup {number} {disk.target} of {vm.uuid!s}"[:64],
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
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.COPYING)
    return image
