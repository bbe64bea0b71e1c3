"""The API of moving a machine to another host. The GET reads the database only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts import policy
from accounts.apiauth import let_in, user_auth
from accounts.policy import Action
from jobs.api import JobBrief, brief
from vms import lifecycle, queries
from vms.moving import places, presentation, requests
from vms.state import ON

router = Router(tags=["machines"], auth=user_auth)


class PlaceOut(Schema):
    host: int
    name: str
    fits: bool
    why_not: str = Field(description="in words, where it does not fit")
    brings_images: bool = Field(description="a copy of an image goes there first")


class PlacesOut(Schema):
    host: str = Field(description="where it is now")
    why_not: str | None = Field(description="code of why it can go nowhere now")
    live: bool = Field(description="it runs on while it moves")
    copied_bytes: int
    items: list[PlaceOut]


class MoveIn(Schema):
    model_config = ConfigDict(extra="forbid")

    host: int


class Moved(Schema):
    job: JobBrief


@router.get("/vms/{uuid}/migrate", response=PlacesOut, summary="Hosts that it can move to")
def list_places(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    user = let_in(request).user
    vm = queries.one(user, uuid)
    policy.require(user, Action.MOVE, vm)
    return {
        "host": vm.host.name if vm.host else "",
        "why_not": places.why_not(vm, lifecycle.active_job(vm)),
        "live": vm.observed in ON,
        "copied_bytes": places.copied_bytes(vm),
        "items": [
            {
                "host": one.host.pk,
                "name": one.host.name,
                "fits": one.refusal is None,
                "why_not": presentation.why_not(one),
                "brings_images": bool(one.brings),
            }
            for one in places.of(vm)
        ],
    }


@router.post("/vms/{uuid}/migrate", response={202: Moved}, summary="Move it to another host")
def migrate(request: HttpRequest, uuid: UUID, wanted: MoveIn) -> tuple[int, dict[str, Any]]:
    """One that runs goes on meanwhile; one that is off stays off."""
    user = let_in(request).user
    vm = queries.one(user, uuid)
    policy.require(user, Action.MOVE, vm)
    job = requests.request(vm, actor=user, host=requests.find_host(wanted.host))
    return 202, {"job": brief(job)}
