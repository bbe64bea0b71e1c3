"""The API of a machine's settings. GETs read the database only."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import idempotent, let_in, user_auth
from accounts.errors import Invalid
from accounts.models import User
from jobs.api import JobBrief, brief
from jobs.models import Job
from vms import flattening, queries
from vms.api_schemas import Whole
from vms.hardware import presentation, requests

router = Router(tags=["settings"], auth=user_auth)
Answer = tuple[int, dict[str, Any]]


class SizeIn(Schema):
    model_config = ConfigDict(extra="forbid")

    vcpus: Whole | None = None
    memory_mib: Whole | None = None


class BootIn(Schema):
    model_config = ConfigDict(extra="forbid")

    devices: list[str]  # targets of disks and MACs of network cards


class AutostartIn(Schema):
    model_config = ConfigDict(extra="forbid")

    autostart: bool


class DiskIn(Schema):
    model_config = ConfigDict(extra="forbid")

    size_gib: Whole


class NicIn(Schema):
    model_config = ConfigDict(extra="forbid")

    network: str


class NicChangeIn(Schema):
    model_config = ConfigDict(extra="forbid")

    network: str | None = None
    link_up: bool | None = None


class BuiltOut(Schema):
    """As it was made; ``""`` and 0 are libvirt's own choice."""

    os: str
    machine: str
    firmware: str
    tpm: bool
    cpu_mode: str
    cpu_model: str
    sockets: int
    cores: int
    threads: int
    video: str
    rng: bool
    balloon: bool
    agent: bool
    watchdog: str
    clock: str
    hyperv: bool
    disc_bus: str


class DiskOut(Schema):
    target: str
    size_gib: int
    bus: str
    format: str
    cache: str
    io: str
    discard: str
    volume: str
    linked: bool
    allocation_bytes: int | None


class NicOut(Schema):
    id: int
    mac: str
    network: str
    model: str
    link_up: bool
    addresses: list[str]


class HardwareOut(Schema):
    vcpus: int
    memory_mib: int
    pending: dict[str, Any]  # what waits for the next start
    boot_order: list[str]
    autostart: bool
    built: BuiltOut | None = Field(description="null: adopted before its XML was read for it")
    disks: list[DiskOut]
    nics: list[NicOut]
    # null when it can be changed now, else why not
    change: str | None
    change_disks: str | None


class Asked(Schema):
    job: JobBrief


class DiskAsked(Asked):
    disk: str


class NicAsked(Asked):
    nic: int


@router.get("/vms/{uuid}/hardware", response=HardwareOut, summary="What it consists of")
def get_hardware(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    user = _user(request)
    vm = queries.one(user, uuid)
    shown = presentation.of(vm, user)
    return {
        "vcpus": vm.vcpus,
        "memory_mib": vm.memory_mib,
        "pending": vm.pending,
        "boot_order": shown.boot,
        "autostart": vm.autostart,
        "built": asdict(shown.built) | {"os": shown.os_id} if shown.built else None,
        "disks": [
            {
                "target": disk.target,
                "size_gib": disk.size_gib,
                "bus": disk.bus,
                "format": disk.format,
                "cache": disk.cache,
                "io": disk.io,
                "discard": disk.discard,
                "volume": disk.volume,
                "linked": disk.backing_image_id is not None,
                "allocation_bytes": disk.allocation_bytes,
            }
            for disk in vm.disks.all()
        ],
        "nics": [
            {
                "id": nic.pk,
                "mac": nic.mac,
                "network": nic.network,
                "model": nic.model,
                "link_up": nic.link_up,
                "addresses": nic.addresses,
            }
            for nic in vm.nics.all()
        ],
        "change": shown.why_not or None,
        "change_disks": shown.why_not_disks or None,
    }


@router.put("/vms/{uuid}/hardware/size", response={202: Asked}, summary="Change its size")
def resize(request: HttpRequest, uuid: UUID, wanted: SizeIn) -> Answer:
    """What a running machine cannot take now waits for its next start (``pending``); the present
    values take that back."""
    user = _user(request)
    return _asked(requests.resize(queries.one(user, uuid), actor=user, **wanted.model_dump()))


@router.put(
    "/vms/{uuid}/hardware/boot-order", response={202: Asked}, summary="Change its boot order"
)
def set_boot_order(request: HttpRequest, uuid: UUID, wanted: BootIn) -> Answer:
    user = _user(request)
    vm = queries.one(user, uuid)
    return _asked(requests.set_boot_order(vm, actor=user, devices=wanted.devices))


@router.put(
    "/vms/{uuid}/hardware/autostart", response={202: Asked}, summary="Start it with its host"
)
def set_autostart(request: HttpRequest, uuid: UUID, wanted: AutostartIn) -> Answer:
    user = _user(request)
    vm = queries.one(user, uuid)
    return _asked(requests.set_autostart(vm, actor=user, autostart=wanted.autostart))


@router.post(
    "/vms/{uuid}/hardware/restart", response={202: Asked}, summary="Shut it down and start it"
)
def restart(request: HttpRequest, uuid: UUID) -> Answer:
    user = _user(request)
    return _asked(requests.restart(queries.one(user, uuid), actor=user))


@router.post("/vms/{uuid}/disks", response={202: DiskAsked}, summary="Add an empty disk")
@idempotent
def add_disk(request: HttpRequest, uuid: UUID, wanted: DiskIn) -> Answer:
    user = _user(request)
    vm = queries.one(user, uuid)
    disk, job = requests.add_disk(vm, actor=user, size_gib=wanted.size_gib)
    return 202, {"job": brief(job), "disk": disk.target}


@router.patch("/vms/{uuid}/disks/{target}", response={202: Asked}, summary="Grow a disk")
def grow_disk(request: HttpRequest, uuid: UUID, target: str, wanted: DiskIn) -> Answer:
    user = _user(request)
    disk = requests.find_disk(queries.one(user, uuid), target)
    return _asked(requests.grow_disk(disk, actor=user, size_gib=wanted.size_gib))


@router.delete("/vms/{uuid}/disks/{target}", response={202: Asked}, summary="Remove a disk")
def remove_disk(request: HttpRequest, uuid: UUID, target: str) -> Answer:
    """Everything on it is deleted."""
    user = _user(request)
    disk = requests.find_disk(queries.one(user, uuid), target)
    return _asked(requests.remove_disk(disk, actor=user))


@router.post("/vms/{uuid}/flatten", response={202: Asked}, summary="Make its disk independent")
def flatten(request: HttpRequest, uuid: UUID) -> Answer:
    """Of the image or template version that it stands on; running or not."""
    user = _user(request)
    return _asked(flattening.request(queries.one(user, uuid), actor=user))


@router.post("/vms/{uuid}/nics", response={202: NicAsked}, summary="Add a network card")
@idempotent
def add_nic(request: HttpRequest, uuid: UUID, wanted: NicIn) -> Answer:
    user = _user(request)
    nic, job = requests.add_nic(queries.one(user, uuid), actor=user, network=wanted.network)
    return 202, {"job": brief(job), "nic": nic.pk}


@router.patch("/vms/{uuid}/nics/{nic_id}", response={202: Asked}, summary="Change a network card")
def change_nic(request: HttpRequest, uuid: UUID, nic_id: int, wanted: NicChangeIn) -> Answer:
    user = _user(request)
    nic = requests.find_nic(queries.one(user, uuid), nic_id)
    if wanted.network is None and wanted.link_up is None:
        raise Invalid("invalid", fields={"link_up": "invalid"})
    return _asked(
        requests.change_nic(nic, actor=user, network=wanted.network, link_up=wanted.link_up)
    )


@router.delete("/vms/{uuid}/nics/{nic_id}", response={202: Asked}, summary="Remove a network card")
def remove_nic(request: HttpRequest, uuid: UUID, nic_id: int) -> Answer:
    user = _user(request)
    nic = requests.find_nic(queries.one(user, uuid), nic_id)
    return _asked(requests.remove_nic(nic, actor=user))


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _asked(job: Job) -> Answer:
    return 202, {"job": brief(job)}
