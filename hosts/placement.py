"""Which host takes a new machine.

Called from a job's step. The choice and its reservation happen in one short transaction under the
hosts' row locks: machines that are being made at the same time see each other and spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from django.db import transaction

from accounts.errors import Conflict
from hosts import capacity
from hosts.capacity import GIB
from hosts.inventory import FILE_POOLS
from hosts.models import Host, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hosts.capacity import Capacity, PoolCapacity

# Whatever is promised, a pool that is nearly full takes nothing: guests would stop with an
# I/O error as soon as they write.
POOL_FLOOR_BYTES = GIB // 2
Refusal = dict[str, Any]  # {"code", and what its message needs}


class Placeable(Protocol):
    """What ``choose`` needs of a machine (``vms.models.VM``): ``host`` is written, nothing read."""

    host: Any
    disks: Any

    def save(self, *, update_fields: Iterable[str]) -> None: ...


class ImageLike(Protocol):
    """What ``choose`` and ``places_for`` need of an image (``vms.models.Image``)."""

    arch: str
    virtual_size_bytes: int
    file_size_bytes: int

    @property
    def pk(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Ask:
    vcpus: int
    memory_mib: int
    disk_bytes: int
    network: str
    arch: str
    image_bytes: int  # to write where the image's copy is not there yet
    networks: frozenset[str]
    needs: tuple[str, ...]  # what it must be able to do: ``Host.lacks``


@dataclass(frozen=True, kw_only=True)
class Move:
    """What a machine that exists needs of another host."""

    source: Host
    live: bool  # it runs on meanwhile
    vcpus: int
    memory_mib: int
    disk_bytes: int
    copy_bytes: int  # that its disks hold themselves
    networks: frozenset[str]
    needs: tuple[str, ...]  # ``Host.lacks``
    images: tuple[ImageLike, ...]  # whose copies must be there


@dataclass(frozen=True, kw_only=True)
class Place:
    """A host beside the one where the machine is. ``refusal``: why it cannot take it, or None."""

    host: Host
    pool: Pool | None
    refusal: Refusal | None
    brings: tuple[ImageLike, ...]  # images whose copies are not there yet


@dataclass(frozen=True, kw_only=True)
class Candidate:
    host: Host
    pool: Pool | None
    capacity: Capacity
    pool_capacity: PoolCapacity | None
    networks: frozenset[str]
    has_image: bool


def choose(
    *,
    vcpus: int,
    memory_mib: int,
    disk_bytes: int,
    network: str,
    image: ImageLike | None = None,
    vm: Placeable | None = None,
    only: Host | None = None,
    more_networks: Iterable[str] = (),
    needs: Iterable[str] = (),
) -> Host:
    """The best host for this machine. With ``vm``, its host and its disks' pool are set in the
    same transaction, which is what keeps two machines from taking the same room. ``only``: this
    host or none (what the machine is made from lies there). ``needs``: words of ``Host.lacks``.

    Raises Conflict ``placement.none`` (or ``placement.<why>`` when all hosts refuse for the same
    reason) with ``reasons``: a list of ``{"host", "code", ...}``.
    """
    ask = Ask(
        vcpus=vcpus,
        memory_mib=memory_mib,
        disk_bytes=disk_bytes,
        network=network,
        arch=image.arch if image is not None else "",
        image_bytes=image.file_size_bytes if image is not None else 0,
        networks=frozenset((network, *more_networks)) - {""},
        needs=tuple(needs),
    )
    with transaction.atomic():
        candidates = [c for c in _candidates(image) if only is None or c.host.pk == only.pk]
        refusals = {c.host.pk: _refusal(c, ask) for c in candidates}
        fitting = [c for c in candidates if refusals[c.host.pk] is None]
        if not fitting:
            raise _nowhere(ask, [(c.host, why) for c in candidates if (why := refusals[c.host.pk])])
        best = min(fitting, key=lambda c: _preference(c, ask))
        if vm is not None:
            vm.host = best.host
            vm.save(update_fields=["host"])
            vm.disks.filter(pool=None).update(pool=best.pool)
    return best.host


def places_for(move: Move, *, lock: bool = False) -> list[Place]:
    """Every other host, by name. ``lock``: within the transaction that reserves the room there."""
    places = []
    for candidate in _candidates(None, lock=lock):
        if candidate.host.pk == move.source.pk:
            continue
        brings = tuple(one for one in move.images if not _has_image(candidate.pool, one))
        ask = Ask(
            vcpus=move.vcpus,
            memory_mib=move.memory_mib,
            disk_bytes=move.disk_bytes,
            network="",
            arch=move.source.arch,
            image_bytes=move.copy_bytes + sum(one.file_size_bytes for one in brings),
            networks=move.networks,
            needs=move.needs,
        )
        refusal = _refusal(candidate, ask) or _move_refusal(candidate, move)
        place = Place(host=candidate.host, pool=candidate.pool, refusal=refusal, brings=brings)
        places.append(place)
    return sorted(places, key=lambda place: place.host.name)


def default_pool(host: Host) -> Pool:
    """Where the host's new disks go. Raises Conflict ``placement.no_pool``."""
    pool = host.pools.filter(is_default=True, active=True).first()
    if pool is None:
        raise Conflict("placement.no_pool", host=host.name)
    return pool


def _candidates(image: ImageLike | None, *, lock: bool = True) -> list[Candidate]:
    # Locked in the order of ids; see design, section 5: site, team, member, host.
    rows = Host.objects.order_by("pk")
    hosts = list(rows.select_for_update() if lock else rows)
    capacities = capacity.of_hosts(hosts)
    arriving = capacity.arriving()
    found = []
    for host in hosts:
        pool = host.pools.filter(is_default=True, active=True).first()
        coming = arriving.get(host.pk, capacity.NOBODY)
        found.append(
            Candidate(
                host=host,
                pool=pool,
                capacity=coming.added_to(capacities[host.pk]),
                pool_capacity=coming.added_to_pool(
                    capacity.of_pools([pool], host.disk_ratio)[pool.pk]
                )
                if pool
                else None,
                networks=frozenset(
                    host.networks.filter(active=True).values_list("name", flat=True)
                ),
                has_image=_has_image(pool, image),
            )
        )
    return found


def _has_image(pool: Pool | None, image: ImageLike | None) -> bool:
    if pool is None or image is None:
        return False
    return bool(pool.image_copies.filter(image=image.pk, state="ready").exists())


def _refusal(candidate: Candidate, ask: Ask) -> Refusal | None:
    """Why this host does not take it, or None."""
    host, room = candidate.host, candidate.capacity
    if host.mode != Host.Mode.ACTIVE:
        return {"code": "placement.maintenance"}
    if host.reach != Host.Reach.UP:
        return {"code": "placement.unreachable"}
    if ask.arch and host.arch and ask.arch != host.arch:
        return {"code": "placement.arch", "needed": ask.arch, "has": host.arch}
    if absent := sorted(ask.networks - candidate.networks):
        return {"code": "placement.no_network", "network": absent[0]}
    if lacking := host.lacks(ask.needs):
        return {"code": "placement.lacks", "need": lacking}
    if ask.memory_mib > room.memory_free_mib:
        return {
            "code": "placement.no_memory",
            "needed_mib": ask.memory_mib,
            "free_mib": room.memory_free_mib,
        }
    if ask.vcpus > room.vcpus_free:
        return {
            "code": "placement.no_vcpus",
            "needed": ask.vcpus,
            "free": room.vcpus_free,
        }
    return _pool_refusal(candidate, ask)


def _pool_refusal(candidate: Candidate, ask: Ask) -> Refusal | None:
    pool, room = candidate.pool, candidate.pool_capacity
    if pool is None or room is None or pool.kind not in FILE_POOLS:
        return {"code": "placement.no_pool", "host": candidate.host.name}
    to_write_now = 0 if candidate.has_image else ask.image_bytes
    if ask.disk_bytes > room.free_bytes or room.available_bytes < to_write_now + POOL_FLOOR_BYTES:
        return {
            "code": "placement.no_disk",
            "needed_gib": -(-ask.disk_bytes // GIB),
            "free_gib": min(room.free_bytes, room.available_bytes) // GIB,
        }
    return None


def _move_refusal(candidate: Candidate, move: Move) -> Refusal | None:
    """Why a machine that was made on ``move.source`` cannot be here, or None."""
    host, source = candidate.host, move.source
    theirs = dict(source.networks.values_list("name", "kind"))
    ours = dict(host.networks.values_list("name", "kind"))
    for name in sorted(move.networks):
        if theirs.get(name, "") != ours.get(name, ""):
            return {"code": "placement.other_network", "network": name, "has": ours.get(name, "")}
    if source.domain_type == "kvm" and host.domain_type != "kvm":
        return {"code": "placement.lacks", "need": "kvm"}
    # Its definition names the machine type of the QEMU that it was made for.
    if _version(host.qemu_version) < _version(source.qemu_version):
        return {"code": "placement.older_qemu", "has": host.qemu_version}
    if move.live and source.domain_type == "kvm" and host.cpu_model != source.cpu_model:
        return {"code": "placement.other_cpu", "has": host.cpu_model}
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _preference(candidate: Candidate, ask: Ask) -> tuple[bool, float, str]:
    """Smallest is best: has the image already, then least promised once this machine is there."""
    room = candidate.capacity
    memory = (room.memory_promised_mib + ask.memory_mib) / max(1, room.memory_limit_mib)
    vcpus = (room.vcpus_promised + ask.vcpus) / max(1, room.vcpus_limit)
    return (not candidate.has_image, max(memory, vcpus), candidate.host.name)


def _nowhere(ask: Ask, refused: list[tuple[Host, Refusal]]) -> Conflict:
    if not refused:
        return Conflict("placement.no_hosts", reasons=[])
    reasons = [{"host": host.name, **why} for host, why in refused]
    codes = {why["code"] for _, why in refused}
    common = codes.pop() if len(codes) == 1 else "placement.none"
    # The closest that any host came: "the most that any has free is ...".
    best: dict[str, Any] = {}
    if common != "placement.none":
        best = max(
            (why for _, why in refused),
            key=lambda why: max((v for k, v in why.items() if k.startswith("free")), default=0),
        )
    params = {key: value for key, value in best.items() if key not in ("code", "host")}
    return Conflict(
        common,
        reasons=reasons,
        hosts=", ".join(host.name for host, _ in refused),
        network_asked=ask.network,
        **params,
    )
