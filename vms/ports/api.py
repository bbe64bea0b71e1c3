"""The API of published ports. GETs read the database only."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import idempotent, let_in, user_auth
from accounts.errors import Conflict
from accounts.models import User
from vms import queries
from vms.api_schemas import Whole
from vms.ports import presentation, requests

router = Router(tags=["published ports"], auth=user_auth)


class PublishIn(Schema):
    model_config = ConfigDict(extra="forbid")

    guest_port: Whole
    note: str = ""


class PortOut(Schema):
    id: int
    guest_port: int
    address: str  # "kvm.example.org:20014"
    public_port: int
    note: str
    state: str  # open | opening | closed | trouble
    why: str | None  # of what is not open, and of what nobody got through
    opened_by: str | None
    created_at: datetime


class PortsOut(Schema):
    items: list[PortOut]
    count: int
    publish: str | None  # null when one can be published now, else why not


@router.get("/vms/{uuid}/ports", response=PortsOut, summary="Its published ports")
def list_ports(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    user = _user(request)
    shown = presentation.of(queries.one(user, uuid), user)
    if shown is None:
        raise Conflict("port.off")
    items = [_out(view) for view in shown.ports]
    return {"items": items, "count": len(items), "publish": shown.why_not or None}


@router.post("/vms/{uuid}/ports", response={201: PortOut}, summary="Publish a TCP port")
@idempotent
def publish_port(request: HttpRequest, uuid: UUID, wanted: PublishIn) -> tuple[int, dict[str, Any]]:
    """The site chooses its own port, at which it listens within a second."""
    user = _user(request)
    vm = queries.one(user, uuid)
    row = requests.publish(vm, actor=user, **wanted.model_dump())
    return 201, _out(presentation.view(vm, row, able=True))


@router.post(
    "/vms/{uuid}/ports/{port_id}/open", response=PortOut, summary="Open a closed one again"
)
def reopen_port(request: HttpRequest, uuid: UUID, port_id: int) -> dict[str, Any]:
    """After the machine was given away, or when who opened it may not change the machine."""
    user = _user(request)
    vm = queries.one(user, uuid)
    requests.reopen(requests.find(vm, port_id), actor=user)
    return _out(presentation.view(vm, requests.find(vm, port_id), able=True))


@router.delete("/vms/{uuid}/ports/{port_id}", response={204: None}, summary="Close it for good")
def close_port(request: HttpRequest, uuid: UUID, port_id: int) -> tuple[int, None]:
    user = _user(request)
    requests.close(requests.find(queries.one(user, uuid), port_id), actor=user)
    return 204, None


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _out(view: presentation.PortView) -> dict[str, Any]:
    row = view.row
    return {
        "id": row.pk,
        "guest_port": row.guest_port,
        "address": view.address,
        "public_port": row.public_port,
        "note": row.note,
        "state": view.state,
        "why": view.why or None,
        "opened_by": row.opened_by.username if row.opened_by else None,
        "created_at": row.created_at,
    }
