"""Devices to plug in and out, and edits of those that are there. Pure functions.

Each edit takes a domain's XML as libvirt gave it; what an admin set by hand on a device stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from lxml import etree

from hosts.virt.spec import DiskSpec, NicSpec
from hosts.virt.xml import devices
from hosts.virt.xml.build import add, parse, render


def disk_xml(spec: DiskSpec, path: str) -> str:
    return render(devices.disk(etree.Element("devices"), spec, path))


def nic_xml(spec: NicSpec) -> str:
    return render(devices.nic(etree.Element("devices"), spec))


def disk_element(domain_xml: str, target: str) -> str | None:
    """The ``<disk>`` with that target; a CD-ROM is none."""
    found = _disk(parse(domain_xml), target, "disk")
    return None if found is None else render(found)


def nic_element(domain_xml: str, mac: str) -> str | None:
    found = _nic(parse(domain_xml), mac)
    return None if found is None else render(found)


def changed_nic(domain_xml: str, mac: str, *, network: str | None, link_up: bool) -> str | None:
    """The ``<interface>`` with its cable in or out and, unless None, in another network. None: it
    is not there, or is so already."""
    nic = _nic(parse(domain_xml), mac)
    if nic is None:
        return None
    before = render(nic)
    link = nic.find("link")
    if link is None and not link_up:
        link = add(nic, "link")
    if link is not None:
        link.set("state", "up" if link_up else "down")
    source = nic.find("source")
    if source is not None and nic.get("type") == "network" and network is not None:
        _put(source, network)
    after = render(nic)
    return None if after == before else after


def loaded_cdrom(domain_xml: str, target: str, path: str) -> str | None:
    """The CD-ROM with ``path`` in its tray. None: there is no such drive, or it has it."""
    disk = _disk(parse(domain_xml), target, "cdrom")
    if disk is None:
        return None
    kind, attributes = devices.source_attributes(path)
    source = disk.find("source")
    if source is not None and path in (source.get("file"), source.get("dev")):
        return None
    for tag in ("source", "backingStore", "mirror"):
        for child in disk.findall(tag):
            disk.remove(child)
    disk.set("type", kind)
    driver = disk.find("driver")
    new = etree.Element("source", attributes)
    disk.insert(0 if driver is None else disk.index(driver) + 1, new)
    return render(disk)


def with_boot_order(domain_xml: str, names: Sequence[str]) -> str:
    """Boot from these devices in this order, and from no other: disks and drives by target, cards
    by MAC. The older ``<os><boot>`` goes, libvirt refuses both together."""
    root = parse(domain_xml)
    holders = (
        *root.findall("os"),
        *root.findall("./devices/disk"),
        *root.findall("./devices/interface"),
    )
    for holder in holders:
        for old in holder.findall("boot"):
            holder.remove(old)
    for number, name in enumerate(names, start=1):
        found = _nic(root, name) if ":" in name else _disk(root, name, None)
        if found is None:
            raise KeyError(name)
        add(found, "boot", order=number)
    return render(root)


def without_topology(domain_xml: str) -> str | None:
    """None: it names none."""
    root = parse(domain_xml)
    cpu = root.find("cpu")
    topology = None if cpu is None else cpu.find("topology")
    if cpu is None or topology is None:
        return None
    cpu.remove(topology)
    if not len(cpu) and not cpu.attrib:
        root.remove(cpu)
    return render(root)


def _put(source: etree._Element, network: str) -> None:
    if source.get("network") != network:
        source.attrib.clear()
        source.set("network", network)


def _disk(root: etree._Element, target: str, kind: str | None) -> etree._Element | None:
    for disk in root.findall("./devices/disk"):
        found = disk.find("target")
        if found is not None and found.get("dev") == target:
            device = disk.get("device") or "disk"
            return disk if kind in (None, device) else None
    return None


def _nic(root: etree._Element, mac: str) -> etree._Element | None:
    for nic in root.findall("./devices/interface"):
        found = nic.find("mac")
        if found is not None and found.get("address", "").lower() == mac.lower():
            return nic
    return None
