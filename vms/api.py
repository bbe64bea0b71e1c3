"""The API of machines: the same services as the pages. GETs read the database only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Field, Query, Router, Schema
from pydantic import ConfigDict

from accounts import policy
from accounts.apiauth import Identity, Page, Paging, idempotent, user_auth
from accounts.errors import NotFound
from accounts.models import Team
from accounts.policy import Action
from hosts.models import Network
from jobs.api import JobBrief, brief
from jobs.models import Job
from vms import lifecycle, presentation, queries, services, timeline
from vms.cloning import requests as cloning
from vms.models import VM, Flavor, Image
from vms.provisioning import network_choices, request_vm
from vms.provisioning.validation import Problems

router = Router(tags=["machines"], auth=user_auth)

POWER_VERBS = ("start", "shutdown", "force-off", "reboot", "reset", "suspend", "resume")
Whole = Annotated[int, Field(strict=True)]  # JSON's true is no number, and neither is "2"
IdOrName = Whole | str
M = TypeVar("M", bound=Model)


# --- what goes in and out ------------------------------------------------------------------------


class CreateIn(Schema):
    """A machine to make. Image, flavor, network and team are named by id or name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    image: IdOrName
    flavor: IdOrName | None = None
    vcpus: Whole | None = None
    memory_mib: Whole | None = None
    disk_gib: Whole | None = Field(None, description="default: what the flavor or the image says")
    network: IdOrName | None = None
    copy_mode: Literal["linked", "full"] = Field("linked", alias="copy")
    user: str = Field("", description="default: the image's own")
    password: str = ""
    ssh_keys: list[str] | None = Field(None, description="default: the keys of your profile")
    user_data: str = ""
    hostname: str = ""
    team: IdOrName | None = Field(None, description="default: your personal team")
    start: bool = True
    tags: list[str] = []
    description: str = ""


class CloneIn(Schema):
    """A clone of a machine. The snapshot is named by id or name, the team by id or name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    copy_mode: Literal["linked", "full"] = Field("full", alias="copy")
    snapshot: IdOrName | None = Field(None, description="default: as it is now")
    hostname: str = ""
    team: IdOrName | None = Field(None, description="default: the machine's own")
    start: bool = True
    tags: list[str] = []
    description: str = ""


class EditIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    tags: list[str] | None = None


class TaskOut(Schema):
    job: UUID
    kind: str
    step: str
    step_label: str
    progress: float | None
    waiting: str
    observing: bool


class FaultOut(Schema):
    code: str
    detail: str
    ref: str


class VMOut(Schema):
    uuid: UUID
    name: str
    state: str
    desired: str
    task: TaskOut | None
    fault: FaultOut | None
    owner: str
    team: str
    host: str | None
    image: str | None
    flavor: str | None
    vcpus: int
    memory_mib: int
    disk_gib: int
    copy_mode: str = Field(serialization_alias="copy")
    network: str
    mac: str
    addresses: list[str]
    connect: str
    hostname: str
    user: str
    first_boot: str
    first_boot_excerpt: str
    tags: list[str]
    description: str
    cpu_percent: float | None
    memory_used_mib: int | None
    created_at: datetime
    started_at: datetime | None
    observed_at: datetime | None
    # verb -> null when it is possible now, else why not
    verbs: dict[str, str | None]


class Accepted(Schema):
    job: JobBrief
    vm: VMOut


class ListIn(Paging):
    q: str = ""
    state: str = ""
    host: str = ""
    owner: str = ""
    image: str = ""
    tag: str = ""
    team: str = ""
    sort: str = "name"


class EventOut(Schema):
    at: datetime
    kind: str
    text: str
    actor: str
    job: UUID | None


# --- machines ------------------------------------------------------------------------------------


@router.get("/vms", response=Page[VMOut], summary="List machines", by_alias=True)
def list_vms(request: HttpRequest, wanted: Query[ListIn]) -> dict[str, Any]:
    user = _identity(request).user
    query = queries.ListQuery.from_params(
        {key: str(value) for key, value in wanted.model_dump().items()}
    )
    page = queries.page(user, query)
    rows = page.vms if wanted.page <= page.pages else []
    views = presentation.machines(rows, user)
    return {"items": [_machine(view) for view in views], "count": page.count}


@router.post("/vms", response={202: Accepted}, summary="Create a machine", by_alias=True)
@idempotent
def create_vm(request: HttpRequest, wanted: CreateIn) -> tuple[int, dict[str, Any]]:
    user = _identity(request).user
    problems = Problems()
    image = _chosen(problems, "image", wanted.image, Image.objects.visible_to(user))
    flavor = _chosen(problems, "flavor", wanted.flavor, Flavor.objects.filter(published=True))
    team = _chosen(problems, "team", wanted.team, _teams(request))
    network = _network(wanted.network)
    problems.raise_if_any()
    if image is None:
        raise NotFound("vm.image_unknown", name="")
    keys = wanted.ssh_keys
    if keys is None:
        keys = list(user.ssh_keys.values_list("public_key", flat=True))
    vm, job = request_vm(
        actor=user,
        team=team,
        name=wanted.name,
        image=image,
        flavor=flavor,
        vcpus=wanted.vcpus,
        memory_mib=wanted.memory_mib,
        disk_gib=wanted.disk_gib,
        network=network,
        copy=wanted.copy_mode,
        user=wanted.user,
        password=wanted.password,
        ssh_keys=keys,
        user_data=wanted.user_data,
        hostname=wanted.hostname,
        start=wanted.start,
        tags=wanted.tags,
        description=wanted.description,
    )
    return 202, _accepted(request, vm, job)


@router.get("/vms/{uuid}", response=VMOut, summary="One machine", by_alias=True)
def get_vm(request: HttpRequest, uuid: str) -> dict[str, Any]:
    return _one(request, uuid)


@router.post(
    "/vms/{uuid}/clone", response={202: Accepted}, summary="Clone a machine", by_alias=True
)
@idempotent
def clone_vm(request: HttpRequest, uuid: str, wanted: CloneIn) -> tuple[int, dict[str, Any]]:
    user = _identity(request).user
    source = queries.one(user, uuid)
    policy.require(user, Action.EDIT, source)
    problems = Problems()
    team = _chosen(problems, "team", wanted.team, _teams(request))
    snapshot = _chosen(problems, "snapshot", wanted.snapshot, source.snapshots.all())
    problems.raise_if_any()
    vm, job = cloning.request_clone(
        source,
        actor=user,
        name=wanted.name,
        team=team,
        copy=wanted.copy_mode,
        snapshot=snapshot,
        hostname=wanted.hostname,
        start=wanted.start,
        tags=wanted.tags,
        description=wanted.description,
    )
    return 202, _accepted(request, vm, job)


@router.patch("/vms/{uuid}", response=VMOut, summary="Change a machine", by_alias=True)
def edit_vm(request: HttpRequest, uuid: str, wanted: EditIn) -> dict[str, Any]:
    user = _identity(request).user
    services.edit_vm(queries.one(user, uuid), actor=user, **wanted.model_dump())
    return _one(request, uuid)


@router.delete("/vms/{uuid}", response={202: Accepted}, summary="Delete a machine", by_alias=True)
def delete_vm(
    request: HttpRequest, uuid: str, force: bool = False, confirm: str = ""
) -> tuple[int, dict[str, Any]]:
    """One that runs needs its name as ``confirm``, or ``force``."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    job = lifecycle.request(vm, "delete", actor=user, confirm_name=confirm, force=force)
    return 202, _accepted(request, vm, job)


def _power(verb: str) -> Callable[[HttpRequest, str], tuple[int, dict[str, Any]]]:
    def act(request: HttpRequest, uuid: str) -> tuple[int, dict[str, Any]]:
        user = _identity(request).user
        vm = queries.one(user, uuid)
        return 202, _accepted(request, vm, lifecycle.request(vm, verb, actor=user))

    return act


for _word in POWER_VERBS:
    router.add_api_operation(
        f"/vms/{{uuid}}/{_word}",
        ["POST"],
        _power(_word),
        response={202: Accepted},
        summary=_word.replace("-", " ").capitalize(),
        operation_id=f"vm_{_word.replace('-', '_')}",
        by_alias=True,
    )


@router.get("/vms/{uuid}/timeline", response=Page[EventOut], summary="What happened to it")
def vm_timeline(request: HttpRequest, uuid: str, paging: Query[Paging]) -> dict[str, Any]:
    vm = queries.one(_identity(request).user, uuid)
    start = (paging.page - 1) * paging.page_size
    entries = timeline.entries(vm, start + paging.page_size)[start:]
    items = [
        {"at": e.at, "kind": e.kind, "text": e.text, "actor": e.actor_name, "job": e.job_id}
        for e in entries
    ]
    return {"items": items, "count": vm.events.count()}


@router.get("/vms/{uuid}/screenshot", summary="Its screen, as it was seen last")
def screenshot(request: HttpRequest, uuid: str) -> HttpResponse:
    from vms import screenshots

    user = _identity(request).user
    vm = queries.one(user, uuid)
    policy.require(user, Action.CONSOLE_VIEW, vm)
    shot = screenshots.first(vm)
    if shot is None:
        raise NotFound("vm.no_screenshot")
    if "image/webp" not in request.headers.get("Accept", ""):
        shot = screenshots.as_png(shot)
    answer = HttpResponse(shot.content, content_type=shot.content_type)
    answer["Cache-Control"] = "private, max-age=5"
    answer["Vary"] = "Accept"
    return answer


# --- inside --------------------------------------------------------------------------------------


def _identity(request: HttpRequest) -> Identity:
    identity: Identity = request.auth  # type: ignore[attr-defined]
    return identity


def _one(request: HttpRequest, uuid: UUID | str) -> dict[str, Any]:
    user = _identity(request).user
    return _machine(presentation.machine(queries.one(user, uuid), user))


def _accepted(request: HttpRequest, vm: VM, job: Job) -> dict[str, Any]:
    return {"job": brief(job), "vm": _one(request, vm.uuid)}


def _machine(view: presentation.MachineView) -> dict[str, Any]:
    vm, task = view.vm, view.task
    nics = list(vm.nics.all())
    return {
        "uuid": vm.uuid,
        "name": vm.name,
        "state": vm.observed,
        "desired": vm.desired,
        "task": task
        and {
            "job": task.job_id,
            "kind": task.kind,
            "step": task.step,
            "step_label": task.step_label,
            "progress": task.progress,
            "waiting": task.waiting,
            "observing": task.observing,
        },
        "fault": {"code": vm.fault_code, "detail": view.fault, "ref": vm.fault_ref}
        if vm.fault_code
        else None,
        "owner": vm.owner.username,
        "team": vm.team.name,
        "host": vm.host.name if vm.host else None,
        "image": vm.image.name if vm.image else None,
        "flavor": vm.flavor.name if vm.flavor else None,
        "vcpus": vm.vcpus,
        "memory_mib": vm.memory_mib,
        "disk_gib": view.disk_gib,
        "copy_mode": vm.copy,
        "network": nics[0].network if nics else "",
        "mac": nics[0].mac if nics else "",
        "addresses": view.addresses,
        "connect": view.connect,
        "hostname": vm.hostname,
        "user": vm.first_user,
        "first_boot": vm.first_boot,
        "first_boot_excerpt": vm.first_boot_excerpt,
        "tags": [tag.name for tag in vm.tags.all()],
        "description": vm.description,
        "cpu_percent": vm.cpu_percent,
        "memory_used_mib": vm.memory_used_mib,
        "created_at": vm.created_at,
        "started_at": vm.started_at,
        "observed_at": vm.observed_at,
        "verbs": {verb.verb: None if verb.allowed else verb.why for verb in view.verbs},
    }


def _chosen(
    problems: Problems, field: str, wanted: IdOrName | None, rows: QuerySet[M, M]
) -> M | None:
    """By id, or by name; what is not there is a problem of this field."""
    if wanted is None:
        return None
    text = str(wanted)
    found = None
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        found = rows.filter(pk=int(text)).first()
    if found is None:
        found = rows.filter(name=text).first()
    if found is None:
        problems.add(field, f"vm.{field}_unknown", name=text[:64])
    return found


def _teams(request: HttpRequest) -> QuerySet[Team, Team]:
    user = _identity(request).user
    return Team.objects.all() if user.is_admin else Team.objects.filter(memberships__user=user)


def _network(wanted: IdOrName | None) -> str:
    if wanted is None:
        choices = network_choices()
        return choices[0][0] if choices else "default"
    text = str(wanted)
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        row = Network.objects.filter(pk=int(text), public=True).first()
        if row is not None:
            return row.name
    return text
