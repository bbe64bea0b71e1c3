"""The API of snapshots. GETs read the database only."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import idempotent, let_in, user_auth
from accounts.models import User
from jobs.api import JobBrief, brief
from vms import queries
from vms.models import Snapshot
from vms.snapshots import presentation, requests

router = Router(tags=["snapshots"], auth=user_auth)


class TakeIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    memory: bool | None = Field(None, description="default: with its memory when it runs")


class RevertIn(Schema):
    model_config = ConfigDict(extra="forbid")

    start: bool = Field(
        default=False, description="start it afterwards; one with memory runs anyway"
    )


class SnapshotOut(Schema):
    id: int
    name: str
    description: str
    state: str
    memory: bool
    parent: str | None
    current: bool
    size_bytes: int | None
    created_at: datetime
    created_by: str | None
    # null when it is possible now, else why not
    revert: str | None
    delete: str | None


class SnapshotsOut(Schema):
    items: list[SnapshotOut]
    count: int
    take: str | None  # null when one can be taken now, else why not


class Asked(Schema):
    job: JobBrief
    snapshot: int


@router.get("/vms/{uuid}/snapshots", response=SnapshotsOut, summary="Its snapshots, as a tree")
def list_snapshots(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    user = _user(request)
    shown = presentation.of(queries.one(user, uuid), user)
    items = [_out(view) for view in shown.tree]
    return {"items": items, "count": len(items), "take": shown.why_not_take or None}


@router.post("/vms/{uuid}/snapshots", response={202: Asked}, summary="Take a snapshot")
@idempotent
def take_snapshot(request: HttpRequest, uuid: UUID, wanted: TakeIn) -> tuple[int, dict[str, Any]]:
    user = _user(request)
    snapshot, job = requests.take(queries.one(user, uuid), actor=user, **wanted.model_dump())
    return 202, {"job": brief(job), "snapshot": snapshot.pk}


@router.post(
    "/vms/{uuid}/snapshots/{snapshot_id}/revert",
    response={202: Asked},
    summary="Go back to a snapshot",
)
def revert_snapshot(
    request: HttpRequest, uuid: UUID, snapshot_id: int, wanted: RevertIn
) -> tuple[int, dict[str, Any]]:
    """What was written since is lost."""
    user = _user(request)
    snapshot = requests.find(queries.one(user, uuid), snapshot_id)
    job = requests.revert(snapshot, actor=user, start=wanted.start)
    return 202, {"job": brief(job), "snapshot": snapshot.pk}


@router.delete(
    "/vms/{uuid}/snapshots/{snapshot_id}", response={202: Asked}, summary="Delete a snapshot"
)
def delete_snapshot(
    request: HttpRequest, uuid: UUID, snapshot_id: int
) -> tuple[int, dict[str, Any]]:
    user = _user(request)
    snapshot = requests.find(queries.one(user, uuid), snapshot_id)
    return 202, {"job": brief(requests.delete(snapshot, actor=user)), "snapshot": snapshot.pk}


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _out(view: presentation.SnapshotView) -> dict[str, Any]:
    row: Snapshot = view.row
    return {
        "id": row.pk,
        "name": row.name,
        "description": row.description,
        "state": row.state,
        "memory": row.memory,
        "parent": row.parent.name if row.parent else None,
        "current": row.current,
        "size_bytes": row.size_bytes,
        "created_at": row.created_at,
        "created_by": row.created_by.username if row.created_by else None,
        "revert": view.why_not_revert or None,
        "delete": view.why_not_delete or None,
    }
