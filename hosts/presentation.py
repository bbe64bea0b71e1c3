"""Hosts as their pages show them. Reads the database only, with a bounded number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _

from accounts import messages
from hosts import capacity
from hosts.check_messages import Finding, findings
from hosts.inventory import FILE_POOLS
from hosts.models import Host, Network, Pool, Untracked
from jobs import registry
from jobs.models import Job

if TYPE_CHECKING:
    from hosts.capacity import Capacity, PoolCapacity

RECENT_JOBS = 8
MACHINES_SHOWN = 200
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class StateView:
    """For ``components/state.html``."""

    key: str
    word: str
    icon: str
    css: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    word: str  # "KVM", "Emulation"
    tone: str  # ok | warn | unknown
    text: str  # why, and what to do
    overridden: bool


@dataclass(frozen=True, kw_only=True)
class HostRow:
    host: Host
    state: StateView
    away: str  # why it is not reachable, "" when it is
    acceleration: Acceleration
    capacity: Capacity
    problems: int  # failed checks and warnings


@dataclass(frozen=True, kw_only=True)
class PoolRow:
    pool: Pool
    capacity: PoolCapacity
    used_gib: float
    size_gib: float

    @property
    def holds_files(self) -> bool:
        return self.pool.kind in FILE_POOLS


@dataclass(frozen=True, kw_only=True)
class UntrackedRow:
    row: Untracked
    size: str
    adoptable: bool


@dataclass(frozen=True, kw_only=True)
class JobRow:
    job: Job
    label: str
    error: str


@dataclass(frozen=True, kw_only=True)
class HostPage:
    row: HostRow
    findings: list[Finding]
    pools: list[PoolRow]
    networks: list[Network]
    machines: list[Any]  # vms.models.VM: this app does not import it
    machines_more: int
    untracked: list[UntrackedRow]
    strangers: int  # domains of others, which are none of our business
    jobs: list[JobRow]


def hosts() -> list[HostRow]:
    rows = list(Host.objects.all())
    capacities = capacity.of_hosts(rows)
    return [_row(host, capacities[host.pk]) for host in rows]


def host_page(host: Host) -> HostPage:
    machines = host.machines.filter(deleted_at__isnull=True).select_related("owner", "team")
    shown = list(machines.order_by("name")[:MACHINES_SHOWN])
    total = machines.count() if len(shown) == MACHINES_SHOWN else len(shown)
    untracked = list(host.untracked.filter(tagged=True))
    return HostPage(
        row=_row(host, capacity.of_host(host)),
        findings=findings(host.checks),
        pools=_pools(host),
        networks=list(host.networks.all()),
        machines=shown,
        machines_more=total - len(shown),
        untracked=[_untracked(row) for row in untracked],
        strangers=host.untracked.filter(tagged=False, kind=Untracked.Kind.DOMAIN).count(),
        jobs=_jobs(host),
    )


def state(host: Host) -> StateView:
    if host.reach == Host.Reach.DOWN:
        return StateView(
            key="down",
            word=_("Unreachable"),
            icon="plug-zap",
            css="state-failed",
            detail=away(host),
        )
    if host.reach == Host.Reach.UNKNOWN:
        return StateView(
            key="unknown", word=_("Not seen yet"), icon="circle-help", css="state-unknown"
        )
    if host.mode == Host.Mode.MAINTENANCE:
        return StateView(
            key="maintenance", word=_("Maintenance"), icon="wrench", css="state-paused"
        )
    return StateView(key="up", word=_("Reachable"), icon="circle-check", css="state-running")


def away(host: Host) -> str:
    """Why it cannot be reached, in words; "" when it can."""
    if host.reach != Host.Reach.DOWN:
        return ""
    return messages.text(host.error_code or "virt.host_unreachable", {"ref": host.error_ref})


def acceleration(host: Host) -> Acceleration:
    override = host.acceleration_override
    chosen = override or host.acceleration
    text = messages.text(host.acceleration_note) if host.acceleration_note else ""
    if override:
        text = _("An admin has set this. What was found: %(found)s") % {"found": text or "–"}
    match chosen:
        case "kvm":
            return Acceleration(word=_("KVM"), tone="ok", text=text, overridden=bool(override))
        case "tcg":
            return Acceleration(
                word=_("Emulation"), tone="warn", text=text, overridden=bool(override)
            )
    return Acceleration(
        word=_("Not tried yet"),
        tone="unknown",
        text=text or _("The host has not been read yet."),
        overridden=False,
    )


def _row(host: Host, room: Capacity) -> HostRow:
    return HostRow(
        host=host,
        state=state(host),
        away=away(host),
        acceleration=acceleration(host),
        capacity=room,
        problems=sum(1 for found in findings(host.checks) if found.result in ("fail", "warn")),
    )


def _pools(host: Host) -> list[PoolRow]:
    pools = list(host.pools.all())
    rooms = capacity.of_pools(pools, host.disk_ratio)
    return [
        PoolRow(
            pool=pool,
            capacity=rooms[pool.pk],
            used_gib=round((pool.capacity_bytes - pool.available_bytes) / GIB, 1),
            size_gib=round(pool.capacity_bytes / GIB, 1),
        )
        for pool in pools
    ]


def _untracked(row: Untracked) -> UntrackedRow:
    facts = row.facts
    if row.kind == Untracked.Kind.VOLUME:
        size = f"{facts.get('allocation_bytes', 0) / GIB:.1f} GiB"
    else:
        size = _("%(vcpus)s vCPU, %(memory)s MiB") % {
            "vcpus": facts.get("vcpus", "?"),
            "memory": facts.get("memory_mib", "?"),
        }
    return UntrackedRow(row=row, size=size, adoptable=row.kind == Untracked.Kind.DOMAIN)


def _jobs(host: Host) -> list[JobRow]:
    jobs = host.jobs.filter(kind__startswith="host.").select_related("actor")
    kinds = registry.all_kinds()
    return [
        JobRow(
            job=job,
            label=str(kinds[job.kind].label) if job.kind in kinds else job.kind,
            error=messages.text(job.error_code, {**job.error_params, "ref": job.error_ref})
            if job.error_code
            else "",
        )
        for job in jobs.order_by("-created_at")[:RECENT_JOBS]
    ]
