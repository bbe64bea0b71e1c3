"""The API of a guest agent. GETs read the database, and have it asked for the next time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import let_in, user_auth
from accounts.models import User
from jobs.api import JobBrief, brief
from vms import queries
from vms.guest import presentation, reading, requests
from vms.models import VM

router = Router(tags=["guest"], auth=user_auth)


class FilesystemOut(Schema):
    mountpoint: str
    device: str
    kind: str
    total_bytes: int | None
    used_bytes: int | None


class SignedInOut(Schema):
    name: str
    since: datetime | None


class CardOut(Schema):
    name: str
    mac: str
    addresses: list[str]


class TroubleOut(Schema):
    code: str
    detail: str
    ref: str


class GuestOut(Schema):
    """What the guest says of itself; whoever is root in it chooses every value."""

    observed_at: datetime | None = Field(description="null: its agent has never answered")
    tried_at: datetime | None
    error: TroubleOut | None = Field(description="why it has not answered the last time")
    hostname: str = ""
    os: str = ""
    os_id: str = ""
    kernel: str = ""
    timezone: str = ""
    filesystems: list[FilesystemOut] = []
    users: list[SignedInOut] = []
    cards: list[CardOut] = []


class PasswordIn(Schema):
    model_config = ConfigDict(extra="forbid")

    user: str
    password: str


class Asked(Schema):
    job: JobBrief


@router.get("/vms/{uuid}/guest", response=GuestOut, summary="What its guest agent says")
def get_guest(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    """As it was last read; older than half a minute, it is read again for the next time."""
    vm, user = _vm(request, uuid)
    reading.ask(vm)
    return _guest(vm, user)


@router.post("/vms/{uuid}/guest/refresh", response={202: GuestOut}, summary="Ask its agent now")
def refresh(request: HttpRequest, uuid: UUID) -> tuple[int, dict[str, Any]]:
    """Answers with what is known before; a moment later ``GET`` has what it said."""
    vm, user = _vm(request, uuid)
    reading.refresh(vm, actor=user)
    return 202, _guest(vm, user)


@router.put("/vms/{uuid}/guest/password", response={202: Asked}, summary="Set a user's password")
def set_password(
    request: HttpRequest, uuid: UUID, wanted: PasswordIn
) -> tuple[int, dict[str, Any]]:
    vm, user = _vm(request, uuid)
    job = requests.set_password(vm, actor=user, user=wanted.user, password=wanted.password)
    return 202, {"job": brief(job)}


@router.post("/vms/{uuid}/guest/trim", response={202: Asked}, summary="Trim its file systems")
def trim(request: HttpRequest, uuid: UUID) -> tuple[int, dict[str, Any]]:
    vm, user = _vm(request, uuid)
    return 202, {"job": brief(requests.trim(vm, actor=user))}


def _vm(request: HttpRequest, uuid: UUID) -> tuple[VM, User]:
    user = let_in(request).user
    return queries.one(user, uuid), user


def _guest(vm: VM, user: User) -> dict[str, Any]:
    shown = presentation.of(vm, user)
    trouble = {"code": shown.trouble_code, "detail": shown.trouble, "ref": shown.trouble_ref}
    return shown.facts | {
        "users": [{"name": row.name, "since": row.since} for row in shown.users],
        "observed_at": shown.observed_at,
        "tried_at": shown.tried_at,
        "error": trouble if shown.trouble_code else None,
    }
