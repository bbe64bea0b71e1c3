"""What people and the watcher do with hosts. Each function is one transaction."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.errors import Conflict, Invalid, NotFound
from hosts import connections, inventory, screens
from hosts.models import Host, Network, Pool
from jobs import live
from jobs import services as job_services
from jobs.models import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accounts.models import User
    from hosts.virt.spec import Check, HostSample, NetworkFacts, PoolFacts

log = logging.getLogger(__name__)

ADMINS = "admins"
REFRESH = "host.refresh"
PROBE = "host.probe"
# Their kinds are registered by ``vms.reconcile``: only there is known what a machine owns.
BACKUP_FOLDER = "host.backup_folder"
# A directory of the host: a path from its root, of plain characters, and not the root itself.
FOLDER = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._+-]*)+/?")
FOLDER_MAX = 200
SWEEP = "host.sweep"
ADOPT = "host.adopt"
FIELDS_OF_TRANSPORT = {
    Host.Transport.LOCAL: frozenset[str](),
    Host.Transport.UNIX: frozenset({"socket_path"}),
    Host.Transport.SSH: frozenset({"address", "port", "username", "ssh_host_key", "socket_path"}),
    Host.Transport.TLS: frozenset({"address", "port"}),
}


def add_host(
    *,
    actor: User | None,
    name: str,
    transport: str,
    socket_path: str = "",
    address: str = "",
    port: int | None = None,
    username: str = "",
    ssh_host_key: str = "",
) -> Host:
    """Brings a host in and has it read and probed by a job. Raises Invalid, Conflict."""
    host = Host(
        name=name,
        transport=transport,
        socket_path=socket_path,
        address=address,
        port=port,
        username=username,
        ssh_host_key=ssh_host_key.strip(),
    )
    _validate(host)
    with transaction.atomic():
        if Host.objects.filter(name=name).exists():
            raise Conflict("host.name_taken", name=name)
        host.save()
        audit.record(actor, "host.add", host, after=_connection(host))
        request_refresh(host, actor=actor, probe=True)
        _announce(host)
    return host


def ensure_host(*, name: str, transport: str, socket_path: str = "") -> tuple[Host, bool]:
    """For ``scripts/up``: the host is there, with this way to reach it. (host, made it now)."""
    known = Host.objects.filter(name=name).first()
    if known is None:
        made = add_host(actor=None, name=name, transport=transport, socket_path=socket_path)
        return made, True
    before = _connection(known)
    known.transport, known.socket_path = transport, socket_path
    if _connection(known) != before:
        _validate(known)
        with transaction.atomic():
            known.save(update_fields=["transport", "socket_path"])
            audit.record(None, "host.edit", known, before=before, after=_connection(known))
    with transaction.atomic():
        request_refresh(known, actor=None, probe=known.acceleration == "")
    return known, False


def _validate(host: Host) -> None:
    """Only the fields that its transport knows, each checked where the URI is built."""
    if host.transport not in Host.Transport.values:
        raise Invalid("host.invalid", fields={"transport": "host.field_wrong"})
    wanted = FIELDS_OF_TRANSPORT[Host.Transport(host.transport)]
    for field, empty in (
        ("socket_path", ""),
        ("address", ""),
        ("port", None),
        ("username", ""),
        ("ssh_host_key", ""),
    ):
        if field not in wanted:
            setattr(host, field, empty)
    try:
        host.clean_fields(exclude=_OTHER_FIELDS)
    except ValidationError as error:
        fields = dict.fromkeys(error.message_dict, "host.field_wrong")
        raise Invalid("host.invalid", fields=fields) from error
    try:
        connections.uri_of(host)
    except ValueError as error:
        raise Invalid("host.invalid", fields={_field_of(error): "host.field_wrong"}) from error


# All that is not typed: read from the host, or set elsewhere.
_OTHER_FIELDS = {field.name for field in Host._meta.fields} - {
    "name",
    "transport",
    "socket_path",
    "address",
    "port",
    "username",
    "ssh_host_key",
}


def _field_of(error: ValueError) -> str:
    """Which input the URI builder refused (its errors carry ``field``)."""
    return str(getattr(error, "field", "") or "address")


def _connection(host: Host) -> dict[str, object]:
    return {
        "transport": host.transport,
        "socket_path": host.socket_path,
        "address": host.address,
        "port": host.port,
        "username": host.username,
    }


@transaction.atomic
def set_mode(host: Host, mode: str, *, actor: User | None) -> Host:
    """``active``, or ``maintenance``: takes no new machines, those it has go on. Raises Invalid."""
    if mode not in Host.Mode.values:
        raise Invalid("host.invalid", fields={"mode": "host.field_wrong"})
    host = Host.objects.select_for_update().get(pk=host.pk)
    if host.mode != mode:
        before, host.mode = host.mode, mode
        host.save(update_fields=["mode"])
        audit.record(actor, "host.mode", host, before={"mode": before}, after={"mode": mode})
        _announce(host)
    return host


@transaction.atomic
def set_network_pxe(host: Host, network_id: int, *, served: bool, actor: User | None) -> Network:
    """Whether a boot server answers there, beyond what libvirt's own DHCP says. Raises NotFound."""
    network = Network.objects.select_for_update().filter(host=host, pk=network_id).first()
    if network is None:
        raise NotFound
    if network.pxe_by_admin != served:
        before = {"network": network.name, "pxe": network.pxe_by_admin}
        network.pxe_by_admin = served
        network.save(update_fields=["pxe_by_admin"])
        audit.record(actor, "host.network_pxe", host, before=before, after={"pxe": served})
        _announce(host)
    return network


@transaction.atomic
def set_acceleration_override(host: Host, override: str, *, actor: User | None) -> Host:
    """``kvm``, ``tcg``, or "" for what the probe found. New machines follow it. Raises Invalid."""
    if override not in ("", "kvm", "tcg"):
        raise Invalid("host.invalid", fields={"acceleration_override": "host.field_wrong"})
    host = Host.objects.select_for_update().get(pk=host.pk)
    if host.acceleration_override != override:
        before, host.acceleration_override = host.acceleration_override, override
        host.save(update_fields=["acceleration_override"])
        audit.record(
            actor,
            "host.acceleration",
            host,
            before={"override": before},
            after={"override": override},
        )
        _announce(host)
    return host


@transaction.atomic
def set_limits(
    host: Host,
    *,
    actor: User | None,
    vcpu_ratio: float,
    memory_reserve_mib: int,
    disk_ratio: float,
    default_pool: Pool,
) -> Host:
    """How much of the host machines may be promised, and where new disks go."""
    host = Host.objects.select_for_update().get(pk=host.pk)
    before = _limits(host)
    host.vcpu_ratio = vcpu_ratio
    host.memory_reserve_mib = memory_reserve_mib
    host.disk_ratio = disk_ratio
    host.save(update_fields=["vcpu_ratio", "memory_reserve_mib", "disk_ratio"])
    host.pools.exclude(pk=default_pool.pk).update(is_default=False)
    host.pools.filter(pk=default_pool.pk).update(is_default=True)
    audit.record(actor, "host.limits", host, before=before, after=_limits(host))
    _announce(host)
    return host


def _limits(host: Host) -> dict[str, object]:
    pool = host.pools.filter(is_default=True).first()
    return {
        "vcpu_ratio": host.vcpu_ratio,
        "memory_reserve_mib": host.memory_reserve_mib,
        "disk_ratio": host.disk_ratio,
        "default_pool": pool.name if pool else "",
    }


@transaction.atomic
def set_backup_place(host: Host, pool: Pool | None, *, actor: User | None) -> Host:
    """Where the backups of its machines go from now on; None: beside their disks. Those that are
    there stay where they are. Raises Invalid (``host.pool_unknown``)."""
    host = Host.objects.select_for_update().get(pk=host.pk)
    here = pool is None or (pool.host_id == host.pk and pool.kind in inventory.FILE_POOLS)
    if not here:
        raise Invalid("host.pool_unknown", fields={"pool": "host.pool_unknown"})
    before, host.backup_pool = host.backup_pool, pool
    host.save(update_fields=["backup_pool"])
    audit.record(
        actor,
        "host.backup_place",
        host,
        before={"pool": before.name if before else ""},
        after={"pool": pool.name if pool else ""},
    )
    _announce(host)
    return host


@transaction.atomic
def request_backup_folder(host: Host, path: str, *, actor: User | None) -> Job:
    """The job that makes a directory of the host a pool, and the place for backups: another disk,
    or a share that the host has mounted. Raises Invalid (``host.backup_folder``)."""
    path = path.strip()
    if len(path) > FOLDER_MAX or not FOLDER.fullmatch(path) or ".." in path.split("/"):
        raise Invalid("host.backup_folder", fields={"folder": "host.backup_folder"})
    return _request(BACKUP_FOLDER, host, actor=actor, params={"path": path.rstrip("/")})


def use_backup_folder(host_id: int, path: str, actor: User | None) -> None:
    """For workers: the pool, its row, and the choice. Idempotent. Raises VirtError."""
    host = Host.objects.get(pk=host_id)
    at = connections.hypervisor(host)
    found = next((pool for pool in at.list_pools() if pool.path.rstrip("/") == path), None)
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    name = found.name if found else f"kvmweb-backups-{digest}"
    at.ensure_pool(name, path)
    refresh_host(host_id)
    set_backup_place(host, Pool.objects.get(host=host, name=name), actor=actor)


@transaction.atomic
def request_refresh(host: Host, *, actor: User | None, probe: bool = False) -> Job:
    """The job that reads the host again; the one that is waiting or running, if there is one."""
    return _request(REFRESH, host, actor=actor, params={"probe": probe})


@transaction.atomic
def request_probe(host: Host, *, actor: User | None) -> Job:
    """The job that finds out, with a real guest, whether KVM works there."""
    return _request(PROBE, host, actor=actor, params={})


@transaction.atomic
def request_sweep(host: Host, *, actor: User | None) -> Job:
    """The job that looks for what no row owns (``vms.reconcile``)."""
    return _request(SWEEP, host, actor=actor, params={})


@transaction.atomic
def request_adoption(host: Host, untracked_id: int, *, actor: User | None) -> Job:
    """The job that makes rows for a domain of ours that has none. Raises NotFound."""
    if not host.untracked.filter(pk=untracked_id, tagged=True).exists():
        raise NotFound
    return _request(ADOPT, host, actor=actor, params={"untracked": untracked_id})


def _request(kind: str, host: Host, *, actor: User | None, params: dict[str, object]) -> Job:
    Host.objects.select_for_update().get(pk=host.pk)  # two clicks make one job
    active = Job.objects.active().filter(kind=kind, host=host, params=params).first()
    if active is not None:
        return active
    job = job_services.enqueue(kind, actor=actor, host=host, target_name=host.name, params=params)
    audit.record(actor, kind, host, job=job)
    return job


def refresh_host(host_id: int) -> Host:
    """Reads the host's facts, checks, pools and networks into rows, and sees to it that machines
    have a pool and a network there. Blocks on the host. Raises VirtError, Host.DoesNotExist."""
    host = Host.objects.get(pk=host_id)
    hypervisor = connections.hypervisor(host)
    inventory.ensure_usable(hypervisor)
    seen = screens.look(host, inventory.read(hypervisor))
    with transaction.atomic():
        host = inventory.write(host_id, seen)
        mark_reach(host, up=True)
        _announce(host)
    return host


def probe_host(host_id: int) -> Host:
    """Boots the probe guest where KVM could work at all. Raises VirtError, Host.DoesNotExist."""
    host = Host.objects.get(pk=host_id)
    if not inventory.probe_worthwhile(host):
        return host
    found = connections.hypervisor(host).probe_acceleration()
    with transaction.atomic():
        host = inventory.write_probe(host_id, found)
        _announce(host)
    return host


def mark_reach(host: Host, *, up: bool, code: str = "", ref: str = "") -> bool:
    """Notes that the host answers, or since when it does not. True when that is news."""
    reach = Host.Reach.UP if up else Host.Reach.DOWN
    now = timezone.now()
    changed = (
        Host.objects.filter(pk=host.pk)
        .exclude(reach=reach)
        .update(
            reach=reach,
            reach_since=now,
            error_code="" if up else code[:48],
            error_ref="" if up else ref[:12],
        )
    )
    if up:
        Host.objects.filter(pk=host.pk).update(last_seen_at=now)
    if changed:
        host.reach, host.reach_since = reach, now
        _announce(host)
    return bool(changed)


def note_sample(host: Host, sample: HostSample) -> None:
    """What the host itself uses now. Tells no page: they ask when they are looked at."""
    now = timezone.now()
    Host.objects.filter(pk=host.pk).update(
        cpu_percent=sample.cpu_percent,
        memory_used_mib=max(0, sample.memory_total_mib - sample.memory_free_mib),
        sampled_at=now,
        last_seen_at=now,
    )


@transaction.atomic
def note_exposure(host: Host, check: Check) -> None:
    """What the watcher found of screens and serial lines that listen on the network."""
    if inventory.write_check(host.pk, check):
        log.log(
            logging.WARNING if check.result == "fail" else logging.INFO,
            "%s: %s: %s",
            host,
            check.key,
            check.params.get("machines", check.result),
        )
        _announce(host)


@transaction.atomic
def note_storage_and_networks(
    host: Host, pools: Sequence[PoolFacts], networks: Sequence[NetworkFacts]
) -> None:
    inventory.write_pools(host, pools)
    inventory.write_networks(host, networks)


@transaction.atomic
def remove_host(host: Host, *, actor: User | None) -> None:
    """Forgets a host that carries no machine; nothing on the host is touched. Raises Conflict."""
    host = Host.objects.select_for_update().get(pk=host.pk)
    machines = host.machines.filter(deleted_at__isnull=True).count()
    if machines:
        raise Conflict("host.has_machines", name=host.name, count=machines)
    # Rows of deleted machines are the record of what was: they keep their uuid, not their host.
    host.machines.update(host=None)
    for pool in host.pools.all():
        pool.disk_set.update(pool=None)
    audit.record(actor, "host.remove", host, before=_connection(host))
    _announce(host)
    host.delete()


def _announce(host: Host) -> None:
    live.publish_on_commit("host", str(host.pk), groups=[ADMINS])
