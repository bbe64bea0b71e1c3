"""Minimal edits of a domain's live XML: what an admin set by hand stays. Pure functions.

Each takes XML as libvirt gave it and returns XML to hand back.
"""

from __future__ import annotations

from lxml import etree

from hosts.virt.spec import DomainSpec
from hosts.virt.xml import devices
from hosts.virt.xml.build import add, parse, render
from hosts.virt.xml.domain import Paths, cpu
from hosts.virt.xml.metadata import (
    KVMWEB_NS,
    LIBOSINFO_NS,
    kvmweb_element,
    libosinfo_element,
)


def ejected_cdrom(domain_xml: str, target: str) -> str | None:
    """The ``<disk>`` with that target and an empty tray, for ``virDomainUpdateDeviceFlags``.
    None: there is no such CD-ROM, or its tray is empty already."""
    root = parse(domain_xml)
    disk = root.find(f"./devices/disk[@device='cdrom']/target[@dev='{_plain(target)}']/..")
    if disk is None or disk.find("source") is None:
        return None
    for tag in ("source", "backingStore", "mirror"):
        for child in disk.findall(tag):
            disk.remove(child)
    disk.set("type", "file")
    return render(disk)


def without_kernel(domain_xml: str) -> str | None:
    """It boots from its devices, and goes on when its guest restarts. None: it does already."""
    root = parse(domain_xml)
    named = [
        child for tag in ("kernel", "initrd", "cmdline") for child in root.findall(f"os/{tag}")
    ]
    if not named:
        return None
    for child in named:
        child.getparent().remove(child)  # type: ignore[union-attr]
    reboot = root.find("on_reboot")
    if reboot is not None:
        reboot.text = "restart"
    return render(root)


def _plain(target: str) -> str:
    if not target.isalnum():
        raise ValueError(f"not a disk target: {target!r}")
    return target


def with_spec(domain_xml: str, spec: DomainSpec, paths: Paths) -> str:
    """A stored definition brought in line: sizes, names, texts and the devices of the spec.
    Devices that the spec does not know are an admin's, and stay."""
    root = parse(domain_xml)
    if root.get("type") != spec.domain_type:
        root.set("type", spec.domain_type)
        for old in root.findall("cpu"):  # host-passthrough and maximum exclude each other
            root.remove(old)
        cpu(root, spec)
    _text(root, "name", spec.name)
    _text(root, "title", spec.title, after="uuid")
    _text(root, "description", spec.description, after="title" if spec.title else "uuid")
    _metadata(root, spec)
    for tag in ("memory", "currentMemory"):
        element = root.find(tag)
        if element is None:
            element = add(root, tag)
        element.set("unit", "MiB")
        element.text = str(spec.memory_mib)
    vcpu = root.find("vcpu")
    if vcpu is not None:
        most = max(spec.vcpus, spec.vcpus_max or 0)
        vcpu.text = str(most)
        vcpu.attrib.pop("current", "")
        if most > spec.vcpus:
            vcpu.set("current", str(spec.vcpus))
    element = root.find("devices")
    if element is None:
        element = add(root, "devices")
    _disks(element, spec, paths)
    _nics(element, spec)
    return render(root)


def _text(root: etree._Element, tag: str, text: str, after: str | None = None) -> None:
    element = root.find(tag)
    if not text:
        if element is not None:
            root.remove(element)
        return
    if element is None:
        element = etree.Element(tag)
        anchor = root.find(after) if after else None
        root.insert(0 if anchor is None else root.index(anchor) + 1, element)
    element.text = text


def _metadata(root: etree._Element, spec: DomainSpec) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = add(root, "metadata")
    if spec.metadata is not None:
        _replace(metadata, f"{{{KVMWEB_NS}}}machine", kvmweb_element(spec.metadata))
    if spec.os_id:
        _replace(metadata, f"{{{LIBOSINFO_NS}}}libosinfo", libosinfo_element(spec.os_id))
    if not len(metadata):
        root.remove(metadata)


def _replace(parent: etree._Element, tag: str, new: etree._Element) -> None:
    old = parent.find(tag)
    if old is None:
        parent.append(new)
    else:
        parent.replace(old, new)


def _disks(element: etree._Element, spec: DomainSpec, paths: Paths) -> None:
    present = {
        target.get("dev", ""): disk
        for disk in element.findall("disk")
        if (target := disk.find("target")) is not None
    }
    for disk in spec.disks:
        if disk.target in present:
            _source(present[disk.target], paths[disk.pool, disk.volume], disk.format)
        else:
            devices.disk(element, disk, paths[disk.pool, disk.volume])
    for cdrom in spec.cdroms:
        path = paths[cdrom.pool, cdrom.volume] if cdrom.pool and cdrom.volume else None
        if cdrom.target in present:
            _source(present[cdrom.target], path, "raw")
        else:
            devices.cdrom(element, cdrom, path)


def _source(disk: etree._Element, path: str | None, image_format: str) -> None:
    """Point an existing disk at ``path``; nothing changes when it is there already."""
    kind, attributes = devices.source_attributes(path) if path else ("file", {})
    source = disk.find("source")
    if source is not None and path and path in (source.get("file"), source.get("dev")):
        return
    for tag in ("source", "backingStore", "mirror"):
        for child in disk.findall(tag):
            disk.remove(child)
    disk.set("type", kind)
    driver = disk.find("driver")
    if driver is not None:
        driver.set("type", image_format)
    if path:
        element = etree.Element("source", attributes)
        disk.insert(0 if driver is None else disk.index(driver) + 1, element)


def _nics(element: etree._Element, spec: DomainSpec) -> None:
    present = {
        mac.get("address", "").lower(): nic
        for nic in element.findall("interface")
        if (mac := nic.find("mac")) is not None
    }
    for nic in spec.nics:
        existing = present.get(nic.mac.lower())
        if existing is None:
            devices.nic(element, nic)
            continue
        if existing.get("type") not in ("network", "bridge"):
            continue  # an admin gave it another kind (macvtap...)
        source = existing.find("source")
        if source is None:
            source = add(existing, "source")
        existing.set("type", "bridge" if nic.bridge else "network")
        wanted = {"bridge": nic.bridge} if nic.bridge else {"network": nic.network or ""}
        if any(source.get(key) != value for key, value in wanted.items()):
            source.attrib.clear()
            for key, value in wanted.items():
                source.set(key, value)
