"""The API of backups. GETs read the database only."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import Field, Query, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import Page, Paging, idempotent, let_in, paginate, user_auth
from accounts.models import User
from jobs.api import JobBrief, brief
from vms import queries
from vms.backups import downloads, services
from vms.models import VM, Backup, BackupPlan

router = Router(tags=["backups"], auth=user_auth)


class RestoreIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("", description="a new machine of this name; empty: over the machine")
    start: bool = Field(default=False, description="start the new machine")


class PlanIn(Schema):
    model_config = ConfigDict(extra="forbid")

    every_days: int = Field(description="1 or 7; 0 ends the plan")
    keep: int = Field(7, description="the last so many stay")
    keep_daily: int = Field(0, description="and the newest of each of so many days")
    keep_weekly: int = Field(0, description="and of so many weeks")


class AttachIn(Schema):
    model_config = ConfigDict(extra="forbid")

    vm: UUID = Field(description="the machine that gets the disk, on the backup's host")
    disk: str = Field("", description="which of the backup's disks; empty: its only one")


class BackupDiskOut(Schema):
    disk: str = Field(description="its target in the machine: vda, vdb…")
    checksum: str
    size_bytes: int
    disk_gib: int


class BackupOut(Schema):
    number: int
    state: str
    checksum: str = Field(description="of the first of its disks")
    size_bytes: int = Field(description="of its files together")
    disk_gib: int = Field(description="of its disks together: what it counts in the quota")
    disks: list[BackupDiskOut]
    nvram: str = Field(
        description="SHA-256 of its UEFI variables, the file `?disk=nvram`; empty: none were kept"
    )
    has_system: bool = Field(description="the machine's first disk is among them")
    place: str = Field(description="the pool where it lies")
    scheduled: bool
    was_running: bool
    frozen: bool = Field(description="its file systems stood still when it was taken")
    created_at: datetime


class OutlivingOut(BackupOut):
    vm: UUID
    name: str
    team: str


class PlanOut(Schema):
    every_days: int
    keep: int
    keep_daily: int
    keep_weekly: int
    next_at: datetime | None
    refused_since: datetime | None = Field(description="its round cannot be begun since then")


class BackupsOut(Schema):
    items: list[BackupOut]
    count: int
    plan: PlanOut | None


class TakenOut(Schema):
    job: JobBrief
    backup: BackupOut


class RestoredOut(Schema):
    job: JobBrief
    vm: UUID


class JobOut(Schema):
    job: JobBrief


@router.get("/backups", response=Page[OutlivingOut], summary="Backups of deleted machines")
def list_outliving(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    """They stay when a machine is deleted for good, and are restored, downloaded and deleted by
    its UUID as before."""
    page = paginate(services.files_with(services.outliving_rows(_user(request))), paging)
    items = [
        _shown(row) | {"vm": row.vm.uuid, "name": row.vm.name, "team": row.vm.team.name}
        for row in page["items"]
    ]
    return page | {"items": items}


@router.get("/vms/{uuid}/backups", response=BackupsOut, summary="Its backups and their plan")
def list_backups(request: HttpRequest, uuid: str) -> dict[str, Any]:
    vm = services.machine(_user(request), uuid)
    kept = vm.backups.select_related("image")
    rows = [_shown(row) for row in services.with_files(kept)]
    return {"items": rows, "count": len(rows), "plan": _plan(vm)}


@router.post("/vms/{uuid}/backups", response={202: TakenOut}, summary="Back it up")
@idempotent
def take_backup(request: HttpRequest, uuid: str) -> tuple[int, dict[str, Any]]:
    """As it is, running or not."""
    user = _user(request)
    backup, job = services.take(services.machine(user, uuid), actor=user)
    return 202, {"job": brief(job), "backup": _shown(backup)}


@router.post(
    "/vms/{uuid}/backups/{int:number}/restore",
    response={202: RestoredOut},
    summary="Restore a backup, over the machine or as a new one",
)
@idempotent
def restore_backup(
    request: HttpRequest, uuid: str, number: int, wanted: RestoreIn
) -> tuple[int, dict[str, Any]]:
    user = _user(request)
    vm = services.machine(user, uuid)
    backup = services.find(vm, number)
    if not wanted.name:
        return 202, {"job": brief(services.restore_over(backup, actor=user)), "vm": vm.uuid}
    made, job = services.restore_as_new(backup, actor=user, name=wanted.name, start=wanted.start)
    return 202, {"job": brief(job), "vm": made.uuid}


@router.post(
    "/vms/{uuid}/backups/{int:number}/attach",
    response={202: RestoredOut},
    summary="Add a disk of a backup to a machine",
)
@idempotent
def attach_disk(
    request: HttpRequest, uuid: str, number: int, wanted: AttachIn
) -> tuple[int, dict[str, Any]]:
    """A copy of it, as a further disk of that machine."""
    user = _user(request)
    backup = services.find(services.machine(user, uuid), number)
    to = queries.one(user, wanted.vm)
    _disk, job = services.attach(backup, actor=user, to=to, target=wanted.disk)
    return 202, {"job": brief(job), "vm": to.uuid}


@router.delete(
    "/vms/{uuid}/backups/{int:number}", response={202: JobOut}, summary="Delete a backup"
)
def delete_backup(request: HttpRequest, uuid: str, number: int) -> tuple[int, dict[str, Any]]:
    user = _user(request)
    backup = services.find(services.machine(user, uuid), number)
    return 202, {"job": brief(services.delete(backup, actor=user))}


@router.get("/vms/{uuid}/backups/{int:number}/file", summary="Download a backup")
def backup_file(request: HttpRequest, uuid: str, number: int, disk: str = "") -> HttpResponseBase:
    """Of one disk, the first unless ``disk`` says which: a qcow2 that stands on nothing. ``Range``
    goes on with a download that broke; the ``ETag`` is its SHA-256. ``disk=nvram``: its UEFI
    variables."""
    user = _user(request)
    backup = services.find(services.machine(user, uuid), number)
    return downloads.answer(request, backup, actor=user, target=disk)


@router.put("/vms/{uuid}/backups/plan", response=BackupsOut, summary="Back it up by the clock")
def put_plan(request: HttpRequest, uuid: str, wanted: PlanIn) -> dict[str, Any]:
    user = _user(request)
    vm = services.machine(user, uuid)
    services.plan(vm, actor=user, **wanted.model_dump())
    return list_backups(request, uuid)


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _shown(backup: Backup) -> dict[str, Any]:
    image = backup.image
    return {
        "number": backup.number,
        "state": image.state,
        "checksum": image.checksum,
        "size_bytes": backup.file_size_bytes,
        "disk_gib": backup.size_gib,
        "disks": [
            {
                "disk": target,
                "checksum": kept.checksum,
                "size_bytes": kept.file_size_bytes,
                "disk_gib": kept.min_disk_gib,
            }
            for target, kept in backup.files
        ],
        "nvram": image.nvram_checksum,
        "has_system": backup.has_system,
        "place": services.place_name(backup),
        "scheduled": backup.scheduled,
        "was_running": backup.was_running,
        "frozen": backup.frozen,
        "created_at": backup.created_at,
    }


def _plan(vm: VM) -> dict[str, Any] | None:
    row = BackupPlan.objects.filter(vm=vm).first()
    if row is None:
        return None
    return {
        "every_days": row.every_days,
        "keep": row.keep,
        "keep_daily": row.keep_daily,
        "keep_weekly": row.keep_weekly,
        "next_at": row.next_at,
        "refused_since": row.refused_since,
    }
