"""What ``virDomainBlockCopy`` and ``virDomainBackupBegin`` are told, and how a copy's end is seen.
Pure functions."""

from __future__ import annotations

from lxml import etree

from hosts.virt.xml import devices
from hosts.virt.xml.build import add, parse, render


def copy_target_xml(path: str) -> str:
    """The ``<disk>`` that a copy goes to: a qcow2 that is there."""
    kind, source = devices.source_attributes(path)
    root = etree.Element("disk", {"type": kind})
    add(root, "driver", type="qcow2")
    add(root, "source", **source)
    return render(root)


def backup_xml(paths: dict[str, str]) -> str:
    """QEMU writes all of these disks (target -> file) as of now into a qcow2 that is there."""
    root = etree.Element("domainbackup", {"mode": "push"})
    disks = add(root, "disks")
    for target, path in paths.items():
        kind, source = devices.source_attributes(path)
        disk = add(disks, "disk", name=target, backup="yes", type=kind)
        add(disk, "target", **source)
        add(disk, "driver", type="qcow2")
    return render(root)


def is_mirrored(domain_xml: str, targets: tuple[str, ...]) -> bool:
    """Whether the copies of all these disks hold what the disks hold."""
    root = parse(domain_xml)
    ready = {
        target.get("dev")
        for disk in root.findall("./devices/disk")
        if (target := disk.find("target")) is not None
        and (mirror := disk.find("mirror")) is not None
        and mirror.get("ready") == "yes"
    }
    return set(targets) <= ready
