"""What a host has, what machines were promised of it, and what is left. In MiB and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from django.db.models import BigIntegerField, Count, F, Q, Sum
from django.db.models.functions import Cast, Coalesce, Greatest

from hosts.models import Host, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

GIB = 1024**3
ALIVE = Q(machines__isnull=False, machines__deleted_at__isnull=True)
# Machines that take CPU and memory, or will when their job goes on.
ON = ALIVE & (Q(machines__desired="running") | Q(machines__observed__in=["running", "paused"]))


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """``promised``: of machines that run or are about to; ``all``: also of stopped ones."""

    cpus: int
    vcpus_limit: int
    vcpus_promised: int
    vcpus_all: int
    memory_mib: int
    memory_limit_mib: int
    memory_promised_mib: int
    memory_all_mib: int
    machines: int
    machines_on: int

    @property
    def vcpus_free(self) -> int:
        return max(0, self.vcpus_limit - self.vcpus_promised)

    @property
    def memory_free_mib(self) -> int:
        return max(0, self.memory_limit_mib - self.memory_promised_mib)

    @property
    def vcpus_percent(self) -> float:
        return _percent(self.vcpus_promised, self.vcpus_limit)

    @property
    def memory_percent(self) -> float:
        return _percent(self.memory_promised_mib, self.memory_limit_mib)


@dataclass(frozen=True, kw_only=True)
class PoolCapacity:
    """Disks are thin: what they may still grow to is promised, not written."""

    capacity_bytes: int
    available_bytes: int
    unwritten_bytes: int
    limit_bytes: int  # that may be promised beyond what is written

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.unwritten_bytes)

    @property
    def used_percent(self) -> float:
        return _percent(self.capacity_bytes - self.available_bytes, self.capacity_bytes)


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """What machines will take of a host that they are being moved to."""

    vcpus: int = 0
    memory_mib: int = 0
    disk_bytes: int = 0

    def added_to(self, room: Capacity) -> Capacity:
        return replace(
            room,
            vcpus_promised=room.vcpus_promised + self.vcpus,
            memory_promised_mib=room.memory_promised_mib + self.memory_mib,
        )

    def added_to_pool(self, room: PoolCapacity) -> PoolCapacity:
        """The host's default pool: there their disks go."""
        return replace(room, unwritten_bytes=room.unwritten_bytes + self.disk_bytes)


NOBODY = Arriving()


def arriving() -> dict[int, Arriving]:
    """By host id; hosts that nobody moves to are left out."""
    hosts = Host.objects.filter(arriving__isnull=False).order_by().values("pk")
    disks = {row["pk"]: row["gib"] for row in hosts.annotate(gib=Sum("arriving__disks__size_gib"))}
    sums = hosts.annotate(vcpus=Sum("arriving__vcpus"), memory=Sum("arriving__memory_mib"))
    return {
        row["pk"]: Arriving(
            vcpus=row["vcpus"],
            memory_mib=row["memory"],
            disk_bytes=(disks.get(row["pk"]) or 0) * GIB,
        )
        for row in sums
    }


def of_hosts(hosts: Iterable[Host]) -> dict[int, Capacity]:
    """By host id, with one query however many hosts."""
    hosts = list(hosts)
    rows = {
        row["pk"]: row
        for row in Host.objects.filter(pk__in=[host.pk for host in hosts])
        .order_by()
        .values("pk")
        .annotate(
            machines_all=Count("machines", filter=ALIVE),
            machines_on=Count("machines", filter=ON),
            vcpus_all=Sum("machines__vcpus", filter=ALIVE),
            vcpus_on=Sum("machines__vcpus", filter=ON),
            memory_all=Sum("machines__memory_mib", filter=ALIVE),
            memory_on=Sum("machines__memory_mib", filter=ON),
        )
    }
    return {host.pk: _capacity(host, rows.get(host.pk, {})) for host in hosts}


def of_host(host: Host) -> Capacity:
    return of_hosts([host])[host.pk]


def _capacity(host: Host, row: Mapping[str, Any]) -> Capacity:
    return Capacity(
        cpus=host.cpus,
        vcpus_limit=int(host.cpus * host.vcpu_ratio),
        vcpus_promised=row.get("vcpus_on") or 0,
        vcpus_all=row.get("vcpus_all") or 0,
        memory_mib=host.memory_mib,
        memory_limit_mib=max(0, host.memory_mib - host.memory_reserve_mib),
        memory_promised_mib=row.get("memory_on") or 0,
        memory_all_mib=row.get("memory_all") or 0,
        machines=row.get("machines_all") or 0,
        machines_on=row.get("machines_on") or 0,
    )


def of_pools(pools: Iterable[Pool], ratio: float) -> dict[int, PoolCapacity]:
    """By pool id, with one query. ``ratio``: promised bytes per free byte."""
    pools = list(pools)
    unwritten = {
        row["pk"]: row["unwritten"]
        for row in Pool.objects.filter(pk__in=[pool.pk for pool in pools])
        .order_by()
        .values("pk")
        .annotate(
            unwritten=Sum(
                Greatest(
                    Cast("disk__size_gib", BigIntegerField()) * GIB
                    - Coalesce(F("disk__allocation_bytes"), 0),
                    0,
                ),
                filter=Q(disk__vm__deleted_at__isnull=True),
            )
        )
    }
    return {
        pool.pk: PoolCapacity(
            capacity_bytes=pool.capacity_bytes,
            available_bytes=pool.available_bytes,
            unwritten_bytes=unwritten.get(pool.pk) or 0,
            limit_bytes=int(pool.available_bytes * ratio),
        )
        for pool in pools
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole > 0 else 0.0
