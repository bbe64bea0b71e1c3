"""The API of machines: the same services as the pages. GETs read the database only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar
from uuid import UUID

from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from accounts import messages, policy
from accounts.apiauth import Identity, Page, Paging, idempotent, let_in, paginate, user_auth
from accounts.errors import NotFound
from accounts.models import Team
from accounts.policy import Action
from hosts.models import Network
from jobs.api import brief
from jobs.models import Job
from vms import (
    batches,
    discs,
    leases,
    lifecycle,
    presentation,
    queries,
    recycle_bin,
    services,
    timeline,
)
from vms.api_schemas import (
    Accepted,
    BatchBrief,
    BatchIn,
    BatchOut,
    BatchRetried,
    CloneIn,
    CommandOut,
    CreateIn,
    DeleteIn,
    DiscIn,
    EditIn,
    EventOut,
    IdOrName,
    KeysIn,
    ListIn,
    RestoreIn,
    VMOut,
    XmlOut,
)
from vms.cloning import requests as cloning
from vms.knobs import CardWish, DiskWish, Wish
from vms.models import VM, Batch, Flavor, Image
from vms.provisioning import network_choices, request_batch, request_vm, retry_failed
from vms.provisioning.validation import Problems

router = Router(tags=["machines"], auth=user_auth)

POWER_VERBS = (
    "start",
    "start-paused",
    "force-off",
    "reboot",
    "reset",
    "suspend",
    "resume",
    "save",
    "discard-saved",
    "nmi",
)
TimelineGroup = Literal["", "state", "jobs", "settings", "snapshots", "consoles"]
M = TypeVar("M", bound=Model)


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
    return {"items": [machine_out(view) for view in views], "count": page.count}


@router.post("/vms", response={202: Accepted}, summary="Create a machine", by_alias=True)
@idempotent
def create_vm(request: HttpRequest, wanted: CreateIn) -> tuple[int, dict[str, Any]]:
    vm, job = request_vm(hostname=wanted.hostname, **_asked(request, wanted))
    return 202, _accepted(request, vm, job)


@router.post("/batches", response={202: BatchOut}, summary="Create many machines at once")
@idempotent
def create_batch(request: HttpRequest, wanted: BatchIn) -> tuple[int, dict[str, Any]]:
    """All of them within the quota, or none."""
    batch = request_batch(count=wanted.count, **_asked(request, wanted))
    return 202, _batch(request, batch)


@router.get("/batches", response=Page[BatchBrief], summary="List batches, the newest first")
def list_batches(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(Batch.objects.visible_to(_identity(request).user), paging)


@router.get("/batches/{batch}", response=BatchOut, summary="One batch and how far it is")
def get_batch(request: HttpRequest, batch: str) -> dict[str, Any]:
    return _batch(request, batches.one(_identity(request).user, batch))


@router.post(
    "/batches/{batch}/retry", response={202: BatchRetried}, summary="Make its failed ones again"
)
def retry_batch(request: HttpRequest, batch: str) -> tuple[int, dict[str, Any]]:
    user = _identity(request).user
    result = retry_failed(batches.one(user, batch), actor=user)
    refused = [
        {"name": vm.name, "code": error.code, "detail": messages.text(error.code, error.params)}
        for vm, error in result.refused
    ]
    return 202, {"jobs": [brief(job) for job in result.done], "refused": refused}


@router.get("/bin", response=Page[VMOut], summary="The recycle bin", by_alias=True)
def list_bin(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    """Deleted machines, those that go for good first at the top."""
    user = _identity(request).user
    page = paginate(recycle_bin.rows(user), paging)
    views = presentation.machines(page["items"], user)
    return page | {"items": [machine_out(view) for view in views]}


@router.post(
    "/vms/{uuid}/take-back",
    response={202: Accepted},
    summary="Restore from the recycle bin",
    by_alias=True,
)
def take_back(request: HttpRequest, uuid: str, wanted: RestoreIn) -> tuple[int, dict[str, Any]]:
    user = _identity(request).user
    vm = queries.one(user, uuid)
    job = recycle_bin.restore(vm, actor=user, name=wanted.name)
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
    vm = queries.one(user, uuid)
    with transaction.atomic():
        services.edit_vm(vm, actor=user, **wanted.model_dump(exclude={"ends_at"}))
        if "ends_at" in wanted.model_fields_set:
            leases.set_end(vm, actor=user, ends_at=wanted.ends_at)
    return _one(request, uuid)


@router.delete("/vms/{uuid}", response={202: Accepted}, summary="Delete a machine", by_alias=True)
def delete_vm(
    request: HttpRequest, uuid: str, wanted: Query[DeleteIn]
) -> tuple[int, dict[str, Any]]:
    """Into the recycle bin; for good with ``purge``, or when it lies there already. One that runs
    needs its name as ``confirm``, or ``force``. When it is deleted for good, the disks of ``keep``
    become a backup first, by ``keep_disk`` all of them."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    keep = [disk.target for disk in vm.disks.all()] if wanted.keep_disk else wanted.keep
    if keep and not wanted.purge:
        return 202, _accepted(request, vm, recycle_bin.purge(vm, actor=user, keep=keep))
    job = lifecycle.request(
        vm,
        "delete",
        actor=user,
        confirm_name=wanted.confirm,
        force=wanted.force,
        purge=wanted.purge,
        keep=keep,
    )
    return 202, _accepted(request, vm, job)


def _power(verb: str) -> Callable[[HttpRequest, str], tuple[int, dict[str, Any]]]:
    def act(request: HttpRequest, uuid: str) -> tuple[int, dict[str, Any]]:
        user = _identity(request).user
        vm = queries.one(user, uuid)
        return 202, _accepted(request, vm, lifecycle.request(vm, verb, actor=user))

    return act


@router.put("/vms/{uuid}/disc", response={202: Accepted}, summary="Insert a disc", by_alias=True)
def insert_disc(request: HttpRequest, uuid: str, wanted: DiscIn) -> tuple[int, dict[str, Any]]:
    """Of the catalogue, by id or name, in the place of the one that is in its drive."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    policy.require(user, Action.EDIT, vm)
    problems = Problems()
    image = _chosen(problems, "image", wanted.image, discs.choices(user))
    problems.raise_if_any()
    if image is None:
        raise NotFound("vm.image_unknown", name="")
    return 202, _accepted(request, vm, discs.insert(vm, actor=user, image=image))


@router.post("/vms/{uuid}/eject", response={202: Accepted}, summary="Eject its disc", by_alias=True)
def eject_disc(request: HttpRequest, uuid: str) -> tuple[int, dict[str, Any]]:
    """What it is installed from is ejected by its first reboot as well."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    return 202, _accepted(request, vm, discs.eject(vm, actor=user))


@router.post(
    "/vms/{uuid}/shutdown",
    response={202: Accepted},
    summary="Shutdown",
    operation_id="vm_shutdown",
    by_alias=True,
)
def shut_down(
    request: HttpRequest, uuid: str, by: Literal["", "acpi", "agent"] = ""
) -> tuple[int, dict[str, Any]]:
    """``by``: the power button (``acpi``) or the guest's agent; both where it is left out."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    return 202, _accepted(request, vm, lifecycle.request(vm, "shutdown", actor=user, by=by))


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


@router.post("/vms/{uuid}/keys", response={202: Accepted}, summary="Press keys", by_alias=True)
def send_keys(request: HttpRequest, uuid: str, wanted: KeysIn) -> tuple[int, dict[str, Any]]:
    """By name: ``["ctrl", "alt", "delete"]``."""
    user = _identity(request).user
    vm = queries.one(user, uuid)
    return 202, _accepted(request, vm, lifecycle.send_keys(vm, wanted.keys, actor=user))


@router.get("/vms/{uuid}/timeline", response=Page[EventOut], summary="What happened to it")
def vm_timeline(
    request: HttpRequest, uuid: str, paging: Query[Paging], only: TimelineGroup = ""
) -> dict[str, Any]:
    vm = queries.one(_identity(request).user, uuid)
    start = (paging.page - 1) * paging.page_size
    entries = timeline.entries(vm, start + paging.page_size, only=only)[start:]
    items = [
        {"at": e.at, "kind": e.kind, "text": e.text, "actor": e.actor_name, "job": e.job_id}
        for e in entries
    ]
    return {"items": items, "count": timeline.lines(vm, only).count()}


@router.get(
    "/vms/{uuid}/commands", response=list[CommandOut], summary="The commands that actions equal"
)
def get_commands(request: HttpRequest, uuid: str) -> list[dict[str, Any]]:
    """Of its host, as they would be now; names that are still to be chosen are examples."""
    from vms import command_list

    user = _identity(request).user
    listed = command_list.of(queries.one(user, uuid), user)
    return [{"key": one.key, "label": one.label, "commands": one.lines} for one in listed]


@router.get("/vms/{uuid}/xml", response=XmlOut, summary="Its definition, without secrets")
def get_xml(request: HttpRequest, uuid: str) -> dict[str, Any]:
    """As it was last read from its host; older than half a minute, it is read again for the next
    time. What runs, and how that differs, is for admins."""
    from vms import definition

    user = _identity(request).user
    vm = queries.one(user, uuid)
    shown = definition.of(vm, user)
    definition.ask(vm)
    differences = None if shown.differences is None else "\n".join(shown.differences)
    return {
        "stored": shown.stored,
        "live": shown.live,
        "differences": differences,
        "observed_at": shown.observed_at,
        "error": shown.trouble or None,
    }


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
    return let_in(request)


def _one(request: HttpRequest, uuid: UUID | str) -> dict[str, Any]:
    user = _identity(request).user
    return machine_out(presentation.machine(queries.one(user, uuid), user))


def _accepted(request: HttpRequest, vm: VM, job: Job) -> dict[str, Any]:
    try:
        return {"job": brief(job), "vm": _one(request, vm.uuid)}
    except NotFound:  # a worker was faster than this answer: its job failed and removed the machine
        job.refresh_from_db()
        return {"job": brief(job), "vm": None}


def _asked(request: HttpRequest, wanted: CreateIn) -> dict[str, Any]:
    """What one machine and many have in common, by id or name made objects."""
    user = _identity(request).user
    problems = Problems()
    image = _chosen(problems, "image", wanted.image, Image.objects.visible_to(user))
    flavor = _chosen(problems, "flavor", wanted.flavor, Flavor.objects.filter(published=True))
    team = _chosen(problems, "team", wanted.team, _teams(request))
    network = _network(wanted.network)
    problems.raise_if_any()
    keys = wanted.ssh_keys
    if keys is None:
        keys = list(user.ssh_keys.values_list("public_key", flat=True))
    return {
        "actor": user,
        "team": team,
        "name": wanted.name,
        "image": image,
        "flavor": flavor,
        "vcpus": wanted.vcpus,
        "memory_mib": wanted.memory_mib,
        "disk_gib": wanted.disk_gib,
        "network": network,
        "copy": wanted.copy_mode,
        "user": wanted.user,
        "password": wanted.password,
        "ssh_keys": keys,
        "user_data": wanted.user_data,
        "start": wanted.start,
        "tags": wanted.tags,
        "description": wanted.description,
        "ends_at": wanted.ends_at,
        "wish": _wish(request, wanted),
    }


def _wish(request: HttpRequest, wanted: CreateIn) -> Wish:
    problems = Problems()
    images = Image.objects.visible_to(_identity(request).user)
    discs = [
        _chosen(problems, "discs", disc, images, code="vm.image_unknown") for disc in wanted.discs
    ]
    problems.raise_if_any()
    return Wish(
        **wanted.hardware.model_dump(),
        os_id=wanted.os,
        disk=DiskWish(**wanted.disk.model_dump()),
        disks=tuple(DiskWish(**disk.model_dump()) for disk in wanted.disks),
        card=CardWish(**wanted.nic.model_dump()),
        cards=tuple(CardWish(**card.model_dump()) for card in wanted.nics),
        discs=tuple(disc for disc in discs if disc is not None),
        boot=tuple(wanted.boot),
        autostart=wanted.autostart,
        answers_kind=wanted.answers.kind if wanted.answers else "",
        answers=wanted.answers.text if wanted.answers else "",
    )


def _batch(request: HttpRequest, batch: Batch) -> dict[str, Any]:
    view = batches.view(batch, _identity(request).user)
    return {
        "uuid": batch.uuid,
        "prefix": batch.prefix,
        "owner": batch.owner.username,
        "team": batch.team.name,
        "created_at": batch.created_at,
        "progress": view.share,
        "counts": view.counts,
        "machines": [
            {
                "number": row.number,
                "name": row.name,
                "uuid": row.uuid,
                "state": row.state,
                "progress": row.share,
                "doing": row.doing,
                "why": row.why,
            }
            for row in view.rows
        ],
    }


def machine_out(view: presentation.MachineView) -> dict[str, Any]:
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
        "disc": vm.iso.name if vm.iso else None,
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
        "binned_at": vm.binned_at,
        "bin_until": vm.bin_until,
        "ends_at": vm.ends_at,
        "last_active_at": vm.last_active_at,
        "idle_told_at": vm.idle_told_at,
        "latest_end_at": view.lease.latest if view.lease else None,
        "extends_to": view.lease.extends_to if view.lease else None,
        "batch": vm.batch.uuid if vm.batch else None,
        "verbs": {verb.verb: None if verb.allowed else verb.why for verb in view.verbs},
    }


def _chosen(
    problems: Problems,
    field: str,
    wanted: IdOrName | None,
    rows: QuerySet[M, M],
    *,
    code: str = "",
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
        problems.add(field, code or f"vm.{field}_unknown", name=text[:64])
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
