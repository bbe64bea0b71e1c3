"""libvirt's XML and statistics -> facts. Pure functions; what an admin made may lack anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import libvirt
from lxml import etree

from hosts.virt.spec import (
    DiskFacts,
    DomainFacts,
    DomainMetadata,
    DomainState,
    Lease,
    NetworkFacts,
    NicFacts,
    PoolFacts,
    SnapshotFacts,
    VolumeFacts,
)
from hosts.virt.xml.build import parse
from hosts.virt.xml.metadata import read_kvmweb

KIB_PER_MIB = 1024

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    # Still there until it has ended; "shutoff" comes with its own event.
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}
# libvirt's words for virDomain*Reason, by its number: index = the enum's value.
RUNNING_REASONS = (
    "unknown",
    "booted",
    "migrated",
    "restored",
    "from snapshot",
    "unpaused",
    "migration canceled",
    "save canceled",
    "wakeup",
    "crashed",
    "post-copy",
    "post-copy failed",
)
PAUSED_REASONS = (
    "unknown",
    "user",
    "migrating",
    "saving",
    "dumping",
    "ioerror",
    "watchdog",
    "from snapshot",
    "shutting down",
    "snapshot",
    "crashed",
    "starting",
    "post-copy",
    "post-copy failed",
)
SHUTOFF_REASONS = (
    "unknown",
    "shutdown",
    "destroyed",
    "crashed",
    "migrated",
    "saved",
    "failed",
    "from snapshot",
    "daemon",
)
# libvirt holds a guest's processors for a moment while it starts, at the end of a migration, and
# while a guest that shuts down is about to be switched off or reset. Nobody has paused it.
PASSING_PAUSES = ("starting", "shutting down", "migrating")
REASONS = {
    DomainState.RUNNING: RUNNING_REASONS,
    DomainState.PAUSED: PAUSED_REASONS,
    DomainState.SHUTOFF: SHUTOFF_REASONS,
    DomainState.CRASHED: ("unknown", "panicked"),
}


def state(number: int, reason: int) -> tuple[DomainState, str]:
    """libvirt's state and reason. A domain that stopped because it crashed is *crashed*."""
    folded = STATES.get(number, DomainState.SHUTOFF)
    if number == libvirt.VIR_DOMAIN_PMSUSPENDED:
        return folded, "suspended by the guest"
    words = REASONS[folded]
    word = words[reason] if 0 <= reason < len(words) else "unknown"
    if word == "crashed" and folded in (DomainState.SHUTOFF, DomainState.PAUSED):
        return DomainState.CRASHED, word
    if folded is DomainState.PAUSED and word in PASSING_PAUSES:
        return DomainState.RUNNING, word
    return folded, word


# --- domains ----------------------------------------------------------------------------------


def stats(
    uuid: UUID,
    name: str,
    values: Mapping[str, Any],
    *,
    persistent: bool,
    autostart: bool,
    saved: bool = False,
) -> DomainFacts:
    """One domain of ``getAllDomainStats`` (keys: virConnectGetAllDomainStats)."""
    folded, reason = state(int(values.get("state.state", 0)), int(values.get("state.reason", 0)))
    on = folded in (DomainState.RUNNING, DomainState.PAUSED)
    memory_kib = int(values.get("balloon.maximum", values.get("balloon.current", 0)))
    return DomainFacts(
        uuid=uuid,
        name=name,
        state=folded,
        reason=reason,
        persistent=persistent,
        vcpus=int(values.get("vcpu.current", values.get("vcpu.maximum", 0))),
        memory_mib=memory_kib // KIB_PER_MIB,
        cpu_time_ns=int(values["cpu.time"]) if on and "cpu.time" in values else None,
        sent_bytes=_sent_bytes(values) if on else None,
        memory_used_mib=_used_mib(values) if on else None,
        autostart=autostart,
        saved=saved and not on,
    )


def _sent_bytes(values: Mapping[str, Any]) -> int:
    """By the guest, on all its cards: what it gets is mostly others' broadcasts."""
    cards = range(int(values.get("net.count", 0)))
    return sum(int(values.get(f"net.{number}.tx.bytes", 0)) for number in cards)


def _used_mib(values: Mapping[str, Any]) -> int | None:
    """What the guest says it uses; where no balloon driver answers, what its process holds."""
    if "balloon.available" in values and "balloon.unused" in values:
        used = int(values["balloon.available"]) - int(
            values.get("balloon.usable", values["balloon.unused"])
        )
        return max(used, 0) // KIB_PER_MIB
    return int(values["balloon.rss"]) // KIB_PER_MIB if "balloon.rss" in values else None


PoolOfPath = Callable[[str], tuple[str, str] | None]  # path -> (pool, volume)


def domain(
    text: str, facts: DomainFacts, pool_of: PoolOfPath, *, domain_id: int | None
) -> DomainFacts:
    """``facts`` (from statistics) completed from the domain's XML."""
    root = parse(text)
    return dataclasses.replace(
        facts,
        metadata=metadata(root),
        disks=tuple(_disk(element, pool_of) for element in root.findall("./devices/disk")),
        nics=tuple(_nic(element) for element in root.findall("./devices/interface")),
        vnc_socket=_vnc_socket(root),
        id=domain_id,
    )


def metadata(root: etree._Element) -> DomainMetadata | None:
    return read_kvmweb(root.find("metadata"))


def _get(element: etree._Element, path: str, attribute: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.get(attribute)


def _disk(element: etree._Element, pool_of: PoolOfPath) -> DiskFacts:
    source = element.find("source")
    path = pool = volume = None
    if source is not None:
        path = source.get("file") or source.get("dev")
        pool, volume = source.get("pool"), source.get("volume")
        if path and pool is None and (found := pool_of(path)):
            pool, volume = found
        if path is None:
            path = f"{pool}/{volume}" if pool else source.get("name")
    return DiskFacts(
        target=_get(element, "target", "dev") or "",
        bus=_get(element, "target", "bus") or "",
        device=element.get("device") or "disk",
        source=path,
        format=_get(element, "driver", "type"),
        pool=pool,
        volume=volume,
    )


def disk_files(text: str) -> dict[str, str]:
    """Target -> path of each writable disk of a domain."""
    found = {}
    for element in parse(text).findall("./devices/disk"):
        target, source = _get(element, "target", "dev"), element.find("source")
        if element.get("device") != "cdrom" and target and source is not None:
            path = source.get("file") or source.get("dev")
            if path:
                found[target] = path
    return found


def stands_on(text: str, target: str) -> bool:
    """Whether a running domain's disk has a backing file, as its host sees it now."""
    for element in parse(text).findall("./devices/disk"):
        if _get(element, "target", "dev") == target:
            backing = element.find("backingStore")
            return backing is not None and backing.find("source") is not None
    return False


def _nic(element: etree._Element) -> NicFacts:
    return NicFacts(
        mac=(_get(element, "mac", "address") or "").lower(),
        network=_get(element, "source", "network"),
        bridge=_get(element, "source", "bridge"),
        model=_get(element, "model", "type"),
        target=_get(element, "target", "dev"),
    )


def _vnc_socket(root: etree._Element) -> str | None:
    """libvirt writes the socket's name into the listen element (and, before 2.0, the graphics)."""
    graphics = root.find("./devices/graphics[@type='vnc']")
    if graphics is None:
        return None
    return _get(graphics, "listen[@type='socket']", "socket") or graphics.get("socket")


def agent_connected(text: str) -> bool:
    """Whether the live XML says that the guest's agent has opened its channel."""
    target = parse(text).find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
    return target is not None and target.get("state") == "connected"


def addresses(interfaces: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """``virDomainInterfaceAddresses`` -> MAC to addresses, without loopback and link-local."""
    found: dict[str, list[str]] = {}
    for interface in (interfaces or {}).values():
        mac = (interface.get("hwaddr") or "").lower()
        for entry in interface.get("addrs") or ():
            address = usable_address(entry.get("addr"))
            if mac and address and address not in found.setdefault(mac, []):
                found[mac].append(address)
    return {mac: listed for mac, listed in found.items() if listed}


def usable_address(text: str | None) -> str | None:
    """The address in its normal form; None for loopback, link-local and what is none."""
    try:
        address = ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    useless = address.is_loopback or address.is_link_local or address.is_unspecified
    return None if useless else str(address)


# --- snapshots --------------------------------------------------------------------------------

_SNAPSHOT_STATES = {
    "running": DomainState.RUNNING,
    "paused": DomainState.PAUSED,
    "crashed": DomainState.CRASHED,
}


def snapshot(text: str, *, current: bool) -> SnapshotFacts:
    root = parse(text)
    kinds = {disk.get("snapshot") for disk in root.findall("./disks/disk")}
    memory = _get(root, "memory", "snapshot")
    return SnapshotFacts(
        name=root.findtext("name") or "",
        parent=root.findtext("./parent/name") or "",
        state=_SNAPSHOT_STATES.get(root.findtext("state") or "", DomainState.SHUTOFF),
        memory=memory not in (None, "no"),
        internal="external" not in kinds and memory != "external",
        current=current,
        description=root.findtext("description") or "",
        created_at=float(root.findtext("creationTime") or 0),
    )


# --- storage and networks -----------------------------------------------------------------------


def _bytes(element: etree._Element, tag: str) -> int:
    """libvirt writes these in bytes, whatever unit was given."""
    return int(element.findtext(tag) or 0)


def pool(text: str, *, active: bool, autostart: bool) -> PoolFacts:
    root = parse(text)
    return PoolFacts(
        name=root.findtext("name") or "",
        uuid=UUID(root.findtext("uuid") or ""),
        kind=root.get("type") or "",
        path=root.findtext("./target/path") or "",
        active=active,
        autostart=autostart,
        capacity_bytes=_bytes(root, "capacity"),
        allocation_bytes=_bytes(root, "allocation"),
        available_bytes=_bytes(root, "available"),
    )


def volume(pool_name: str, text: str) -> VolumeFacts:
    root = parse(text)
    return VolumeFacts(
        pool=pool_name,
        name=root.findtext("name") or "",
        path=root.findtext("./target/path") or root.findtext("key") or "",
        format=_get(root, "./target/format", "type") or "raw",
        capacity_bytes=_bytes(root, "capacity"),
        allocation_bytes=_bytes(root, "allocation"),
        backing_path=root.findtext("./backingStore/path") or None,
    )


def network(text: str, *, active: bool, autostart: bool) -> NetworkFacts:
    root = parse(text)
    return NetworkFacts(
        name=root.findtext("name") or "",
        uuid=UUID(root.findtext("uuid") or ""),
        kind=_network_kind(root),
        bridge=_get(root, "bridge", "name") or "",
        cidr=_cidr(root),
        active=active,
        autostart=autostart,
        pxe=root.find("./ip/dhcp/bootp") is not None,
    )


def _network_kind(root: etree._Element) -> str:
    forward = root.find("forward")
    if forward is None:
        return "isolated"
    return forward.get("mode") or "nat"


def _cidr(root: etree._Element) -> str:
    """Of the address range that its DHCP serves, or of its first address."""
    candidates = root.findall("./ip[dhcp]") + root.findall("ip")
    for ip in candidates:
        address, mask = ip.get("address"), ip.get("prefix") or ip.get("netmask")
        if address and mask:
            return str(ip_network(f"{address}/{mask}", strict=False))
        if address and ip.get("family") != "ipv6":
            return str(ip_network(f"{address}/{_classful_prefix(address)}", strict=False))
    return ""


def _classful_prefix(address: str) -> int:
    """What libvirt means when a network gives no mask: the address's class."""
    first = int(address.partition(".")[0])
    return 8 if first < 128 else 16 if first < 192 else 24


def lease(network_name: str, values: Mapping[str, Any]) -> Lease | None:
    mac, address = values.get("mac"), usable_address(values.get("ipaddr"))
    if not mac or not address:
        return None
    return Lease(
        network=network_name,
        mac=str(mac).lower(),
        address=address,
        hostname=values.get("hostname") or None,
        expires_at=float(values["expirytime"]) if values.get("expirytime") else None,
    )
