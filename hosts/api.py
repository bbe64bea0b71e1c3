"""The API of hosts. Admins see all of a host; everybody else its name, whether it can be reached
and how machines run there, which is what explains the state of their own machines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts.access import SignedInRequest
from accounts.apiauth import Identity, Page, Paging, paginate
from accounts.errors import NotFound
from accounts.models import User
from hosts import capacity
from hosts.check_messages import finding
from hosts.models import Host

router = Router(tags=["hosts"])


class HostSummary(Schema):
    id: int
    name: str
    reach: str  # unknown | up | down
    reach_since: datetime | None
    mode: str  # active | maintenance
    acceleration: str  # kvm | emulation | unknown


class CapacityOut(Schema):
    """``promised``: to machines that run or are about to."""

    cpus: int
    vcpus_limit: int
    vcpus_promised: int
    memory_mib: int
    memory_limit_mib: int
    memory_promised_mib: int
    machines: int
    machines_on: int


class PoolOut(Schema):
    name: str
    kind: str
    path: str
    active: bool
    is_default: bool
    capacity_bytes: int
    available_bytes: int


class NetworkOut(Schema):
    name: str
    kind: str
    bridge: str
    cidr: str
    active: bool
    pxe: Annotated[bool, Field(description="its own DHCP names a file to boot")]
    pxe_by_admin: Annotated[bool, Field(description="another server does, an admin says")]


class CheckOut(Schema):
    key: str
    result: str  # pass | warn | fail | note
    text: str
    todo: str


class UntrackedOut(Schema):
    kind: str
    name: str
    pool: str
    uuid: str | None
    state: str


class HostOut(HostSummary):
    """The fields below ``capacity`` are for admins; null for others."""

    capacity: CapacityOut | None = None
    transport: str | None = None
    hostname: str | None = None
    arch: str | None = None
    cpu_model: str | None = None
    libvirt_version: str | None = None
    qemu_version: str | None = None
    acceleration_override: str | None = None
    error_code: str | None = None
    error_ref: str | None = None
    checked_at: datetime | None = None
    last_seen_at: datetime | None = None
    pools: list[PoolOut] | None = None
    networks: list[NetworkOut] | None = None
    checks: list[CheckOut] | None = None
    untracked: list[UntrackedOut] | None = None


class ApiRequest(SignedInRequest):
    auth: Identity


@router.get("/hosts", response=Page[HostOut], summary="Hosts")
def list_hosts(request: ApiRequest, paging: Query[Paging]) -> dict[str, Any]:
    page = paginate(
        Host.objects.prefetch_related("pools", "networks", "untracked")
        if _is_admin(request)
        else Host.objects.all(),
        paging,
    )
    page["items"] = _answers(request, page["items"])
    return page


@router.get("/hosts/{int:host_id}", response=HostOut, summary="One host")
def get_host(request: ApiRequest, host_id: int) -> dict[str, Any]:
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        raise NotFound
    return _answers(request, [host])[0]


def _is_admin(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and request.user.is_admin


def _answers(request: HttpRequest, hosts: list[Host]) -> list[dict[str, Any]]:
    if not _is_admin(request):
        return [_summary(host) for host in hosts]
    rooms = capacity.of_hosts(hosts)
    return [_summary(host) | _details(host, rooms[host.pk]) for host in hosts]


def _summary(host: Host) -> dict[str, Any]:
    chosen = host.acceleration_override or host.acceleration
    return {
        "id": host.pk,
        "name": host.name,
        "reach": host.reach,
        "reach_since": host.reach_since,
        "mode": host.mode,
        "acceleration": {"kvm": "kvm", "tcg": "emulation"}.get(chosen, "unknown"),
    }


def _details(host: Host, room: capacity.Capacity) -> dict[str, Any]:
    return {
        "capacity": {name: getattr(room, name) for name in CapacityOut.model_fields},
        "transport": host.transport,
        "hostname": host.hostname,
        "arch": host.arch,
        "cpu_model": host.cpu_model,
        "libvirt_version": host.libvirt_version,
        "qemu_version": host.qemu_version,
        "acceleration_override": host.acceleration_override,
        "error_code": host.error_code,
        "error_ref": host.error_ref,
        "checked_at": host.checked_at,
        "last_seen_at": host.last_seen_at,
        "pools": [_fields(pool, PoolOut) for pool in host.pools.all()],
        "networks": [_fields(network, NetworkOut) for network in host.networks.all()],
        "checks": [_check(check) for check in host.checks],
        "untracked": [
            _fields(row, UntrackedOut) | {"uuid": str(row.uuid) if row.uuid else None}
            for row in host.untracked.all()
            if row.tagged
        ],
    }


def _fields(row: object, schema: type[Schema]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in schema.model_fields}


def _check(check: dict[str, Any]) -> dict[str, str]:
    said = finding(check)
    return {"key": said.key, "result": said.result, "text": said.text, "todo": said.todo}
