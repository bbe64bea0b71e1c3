"""The API of templates. GETs read the database only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import idempotent, let_in, user_auth
from accounts.errors import NotFound
from accounts.models import User
from jobs.api import JobBrief, brief
from vms import queries
from vms.machine_templates import services
from vms.models import Image, Template

router = Router(tags=["templates"], auth=user_auth)


class MakeIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("", description="of a new template")
    template: int | None = Field(None, description="or: the one that gets a new version")
    description: str = ""
    public: bool = Field(default=False, description="admins only: for everybody")


class CurrentIn(Schema):
    model_config = ConfigDict(extra="forbid")

    version: int


class VersionOut(Schema):
    version: int
    image: int = Field(description="create machines with this as their image")
    state: str
    created_at: datetime
    disk_gib: int
    nvram: bool = Field(description="machines made from it start with its UEFI variables")


class TemplateOut(Schema):
    id: int
    name: str
    team: str
    owner: str
    description: str
    public: bool
    current: int | None = Field(description="the current version's number")
    versions: list[VersionOut]


class MadeOut(Schema):
    job: JobBrief
    template: TemplateOut


class JobOut(Schema):
    job: JobBrief


@router.get("/templates", response=list[TemplateOut], summary="Your templates and public ones")
def list_templates(request: HttpRequest) -> list[dict[str, Any]]:
    rows = services.visible_to(_user(request)).select_related("team", "owner", "current")
    return [_shown(row) for row in rows.prefetch_related("versions")]


@router.post(
    "/vms/{uuid}/template", response={202: MadeOut}, summary="Make a template of a stopped machine"
)
@idempotent
def make_template(request: HttpRequest, uuid: str, wanted: MakeIn) -> tuple[int, dict[str, Any]]:
    user = _user(request)
    vm = queries.one(user, uuid)
    into = services.find(user, wanted.template) if wanted.template is not None else None
    image, job = services.make(
        vm,
        actor=user,
        name=wanted.name,
        into=into,
        description=wanted.description,
        public=wanted.public,
    )
    if image.template is None:
        raise NotFound("template.not_found")
    return 202, {"job": brief(job), "template": _shown(image.template)}


@router.post(
    "/templates/{int:template_id}/current", response=TemplateOut, summary="Choose a version"
)
def choose_current(request: HttpRequest, template_id: int, wanted: CurrentIn) -> dict[str, Any]:
    services.set_current(_version(request, template_id, wanted.version), actor=_user(request))
    return _shown(services.find(_user(request), template_id))


@router.delete(
    "/templates/{int:template_id}/versions/{int:number}",
    response={202: JobOut},
    summary="Delete a version that no machine stands on",
)
def delete_version(
    request: HttpRequest, template_id: int, number: int
) -> tuple[int, dict[str, Any]]:
    image = _version(request, template_id, number)
    return 202, {"job": brief(services.delete_version(image, actor=_user(request)))}


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _version(request: HttpRequest, template_id: int, number: int) -> Image:
    template = services.find(_user(request), template_id)
    image = Image.objects.filter(template=template, template_version=number).first()
    if image is None:
        raise NotFound("template.not_found")
    return image


def _shown(template: Template) -> dict[str, Any]:
    return {
        "id": template.pk,
        "name": template.name,
        "team": template.team.name,
        "owner": template.owner.username,
        "description": template.description,
        "public": template.public,
        "current": template.current.template_version if template.current else None,
        "versions": [
            {
                "version": image.template_version,
                "image": image.pk,
                "state": image.state,
                "created_at": image.created_at,
                "disk_gib": image.min_disk_gib,
                "nvram": bool(image.nvram_checksum),
            }
            for image in sorted(template.versions.all(), key=lambda one: one.pk)
        ],
    }
