"""The API's dry run of what makes a machine, or its team, take more of the quota."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts import quotas
from accounts.api import find_team
from accounts.apiauth import let_in, user_auth
from accounts.schemas import QuotaCheck
from vms import growth
from vms.api_schemas import IdOrName
from vms.growth import About

router = Router(tags=["quota"], auth=user_auth)


class GrowthIn(Schema):
    """What the action would be asked for with."""

    model_config = ConfigDict(extra="forbid")

    action: Literal[tuple(growth.ACTIONS)]  # type: ignore[valid-type]
    size_gib: int = Field(0, ge=0, le=quotas.LARGEST, description="of a disk, new or grown")
    vcpus: int | None = Field(None, ge=0, le=quotas.LARGEST)
    memory_mib: int | None = Field(None, ge=0, le=quotas.LARGEST)
    disk: str = Field("", description="target of a disk, of the machine or of the backup")
    snapshot: int = Field(0, ge=0, le=quotas.LARGEST)
    backup: int = Field(0, ge=0, le=quotas.LARGEST, description="its number")
    machine: UUID | None = Field(None, description="which gets a disk of the backup")
    team: IdOrName | None = Field(None, description="which pays for the clone")
    template: int = Field(0, ge=0, le=quotas.LARGEST, description="which gets a new version")
    start: bool = Field(default=False, description="the new machine, or the one that goes back")


class GrowthOut(QuotaCheck):
    request: str = Field(description="the page of a request already filled in; empty: it fits")


@router.post(
    "/vms/{uuid}/quota/check", response=GrowthOut, summary="Would this action fit the quota?"
)
def check_growth(request: HttpRequest, uuid: str, wanted: GrowthIn) -> dict[str, Any]:
    """A dry run of one action of a machine: nothing is held for it. For new machines, and amounts
    of one's own, ``POST /quota/check``."""
    user = let_in(request).user
    found = growth.of(
        uuid,
        wanted.action,
        actor=user,
        about=About(
            size_gib=wanted.size_gib,
            vcpus=wanted.vcpus,
            memory_mib=wanted.memory_mib,
            disk=wanted.disk,
            snapshot=wanted.snapshot,
            backup=wanted.backup,
            machine=wanted.machine or "",
            team=find_team(user, wanted.team) if wanted.team is not None else None,
            into=wanted.template,
            start=wanted.start,
        ),
    )
    return {
        "team": found.team.name,
        "fits": found.fits,
        "resources": found.impacts,
        "request": found.more,
    }
