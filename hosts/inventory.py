"""What a host has, read from its hypervisor into rows: facts, checks, pools, networks.

Reading happens outside any transaction, writing in one short one. Rows of pools and networks that
are not there any more become inactive, they are not deleted: machines' disks point at them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from hosts.models import Host, Network, Pool
from hosts.virt.errors import AlreadyExists, VirtError

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import Check, HostFacts, NetworkFacts, PoolFacts

log = logging.getLogger(__name__)

DEFAULT_POOL = "default"
DEFAULT_POOL_PATH = "/var/lib/libvirt/images"  # libvirt's own, where its security driver allows
DEFAULT_NETWORK = "default"
# Pools that hold qcow2 files, which overlays need.
FILE_POOLS = frozenset({"dir", "fs", "netfs"})
PROBE_KEY = "acceleration_probe"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    facts: HostFacts
    checks: list[Check]
    pools: list[PoolFacts]
    networks: list[NetworkFacts]
    screens: str = ""  # Host.Screens; "": as it was


def read(hypervisor: Hypervisor) -> Inventory:
    """Reads everything. Raises VirtError."""
    return Inventory(
        facts=hypervisor.facts(),
        checks=hypervisor.checks(),
        pools=hypervisor.list_pools(),
        networks=hypervisor.list_networks(),
    )


def ensure_usable(hypervisor: Hypervisor) -> None:
    """A fresh libvirt has no storage pool, and its ``default`` network is off: machines need one
    of each. What an admin has set up is left as it is. Raises VirtError."""
    if not any(usable(pool) for pool in hypervisor.list_pools()):
        hypervisor.ensure_pool(DEFAULT_POOL, DEFAULT_POOL_PATH)
    networks = hypervisor.list_networks()
    if networks and not any(network.active for network in networks):
        names = {network.name for network in networks}
        name = DEFAULT_NETWORK if DEFAULT_NETWORK in names else min(names)
        try:
            hypervisor.ensure_network(name)
        except AlreadyExists:
            return
        except VirtError as error:
            # Its subnet may be taken on that host: the host serves machines without it, and its
            # page shows the network as off.
            log.warning("network %s did not start: %s [%s]", name, error.raw, error.ref)


def usable(pool: PoolFacts) -> bool:
    return pool.active and pool.kind in FILE_POOLS


@transaction.atomic
def write(host_id: int, inventory: Inventory) -> Host:
    """Brings the rows in line. Raises Host.DoesNotExist."""
    host = Host.objects.select_for_update().get(pk=host_id)
    now = timezone.now()
    facts = inventory.facts
    host.hostname = facts.hostname[:253]
    host.host_uuid = facts.host_uuid
    host.arch = facts.arch[:16]
    host.cpu_model = facts.cpu_model[:64]
    host.cpus = facts.cpus
    host.memory_mib = facts.memory_mib
    host.libvirt_version = facts.libvirt_version[:16]
    host.qemu_version = facts.qemu_version[:16]
    host.facts = {
        "domain_types": list(facts.domain_types),
        "cpu_virt_flag": facts.cpu_virt_flag,
        "firmwares": list(facts.firmwares),
        "machines": list(facts.machines),
        "tpm": facts.tpm,
        "cpu_models_emulated": list(facts.cpu_models_emulated),
        "videos": list(facts.videos),
        "cpu_models": list(facts.cpu_models),
    }
    host.checks = _checks_json(inventory.checks, kept=_probe_of(host))
    host.screens = inventory.screens or host.screens
    host.checked_at = host.last_seen_at = now
    host.acceleration, host.acceleration_note = acceleration(
        domain_types=facts.domain_types,
        cpu_virt_flag=facts.cpu_virt_flag,
        probe=_probe_result(host),
    )
    host.save()
    write_pools(host, inventory.pools)
    write_networks(host, inventory.networks)
    return host


@transaction.atomic
def write_probe(host_id: int, probe: Check) -> Host:
    """Remembers what the probe guest has shown. Raises Host.DoesNotExist."""
    host = Host.objects.select_for_update().get(pk=host_id)
    others = [check for check in host.checks if check["key"] != PROBE_KEY]
    host.checks = [*others, _check_json(probe)]
    host.acceleration, host.acceleration_note = acceleration(
        domain_types=host.facts.get("domain_types", ()),
        cpu_virt_flag=bool(host.facts.get("cpu_virt_flag")),
        probe=probe.result,
    )
    host.save(update_fields=["checks", "acceleration", "acceleration_note"])
    return host


def write_check(host_id: int, check: Check) -> bool:
    """Puts one finding in the place of what was found before. True when that is news. Inside the
    caller's transaction. Raises Host.DoesNotExist."""
    host = Host.objects.select_for_update().get(pk=host_id)
    new = _check_json(check)
    known = {one["key"]: at for at, one in enumerate(host.checks)}
    if check.key not in known:
        host.checks = [*host.checks, new]
    elif host.checks[known[check.key]] == new:
        return False
    else:
        host.checks[known[check.key]] = new
    host.save(update_fields=["checks"])
    return True


def acceleration(
    *, domain_types: Iterable[str], cpu_virt_flag: bool, probe: str | None
) -> tuple[str, str]:
    """(``kvm`` | ``tcg`` | "" for not known yet, why as a code).

    ``/dev/kvm`` can be there, and libvirt can list kvm, on a machine where a guest hangs for ever:
    so KVM is taken only where it is listed, the CPU says so, and a probe guest has come up.
    """
    if "kvm" not in domain_types:
        return "tcg", "accel.not_listed"
    if not cpu_virt_flag:
        return "tcg", "accel.no_cpu_flag"
    match probe:
        case "pass":
            return "kvm", "accel.probe_passed"
        case None:
            return "", "accel.not_probed"
        case _:
            return "tcg", "accel.probe_failed"


def probe_worthwhile(host: Host) -> bool:
    """Without the CPU's flag or libvirt's word a probe guest can only hang."""
    return bool(host.facts.get("cpu_virt_flag")) and "kvm" in host.facts.get("domain_types", ())


def write_pools(host: Host, pools: Sequence[PoolFacts]) -> None:
    now = timezone.now()
    for facts in pools:
        Pool.objects.update_or_create(
            host=host,
            name=facts.name[:64],
            defaults={
                "uuid": facts.uuid,
                "kind": facts.kind[:16],
                "path": facts.path[:255],
                "active": facts.active,
                "autostart": facts.autostart,
                "capacity_bytes": facts.capacity_bytes,
                "allocation_bytes": facts.allocation_bytes,
                "available_bytes": facts.available_bytes,
                "seen_at": now,
            },
        )
    seen = [facts.name[:64] for facts in pools]
    host.pools.exclude(name__in=seen).filter(active=True).update(active=False)
    _settle_default_pool(host)


def _settle_default_pool(host: Host) -> None:
    """Exactly one active pool takes new disks: the chosen one, else ``default``, else the largest.
    A chosen pool that is off for a moment stays chosen, so that disks do not scatter."""
    if host.pools.filter(is_default=True).exists():
        return
    candidates = list(host.pools.filter(active=True, kind__in=FILE_POOLS))
    if candidates:
        best = max(candidates, key=lambda pool: (pool.name == DEFAULT_POOL, pool.capacity_bytes))
        Pool.objects.filter(pk=best.pk).update(is_default=True)


def write_networks(host: Host, networks: Sequence[NetworkFacts]) -> None:
    now = timezone.now()
    for facts in networks:
        Network.objects.update_or_create(
            host=host,
            name=facts.name[:64],
            defaults={
                "uuid": facts.uuid,
                "kind": facts.kind[:10],
                "bridge": facts.bridge[:15],
                "cidr": facts.cidr[:43],
                "active": facts.active,
                "autostart": facts.autostart,
                "pxe": facts.pxe,
                "seen_at": now,
            },
        )
    seen = [facts.name[:64] for facts in networks]
    host.networks.exclude(name__in=seen).filter(active=True).update(active=False)


def _check_json(check: Check) -> dict[str, Any]:
    return {"key": check.key, "result": check.result, "params": dict(check.params)}


def _checks_json(checks: Iterable[Check], *, kept: dict[str, Any] | None) -> list[dict[str, Any]]:
    written = [_check_json(check) for check in checks if check.key != PROBE_KEY]
    return [*written, kept] if kept is not None else written


def _probe_of(host: Host) -> dict[str, Any] | None:
    return next((check for check in host.checks if check["key"] == PROBE_KEY), None)


def _probe_result(host: Host) -> str | None:
    probe = _probe_of(host)
    return str(probe["result"]) if probe is not None else None
