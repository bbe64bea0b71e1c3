"""``SnapshotSpec`` -> snapshot XML (https://libvirt.org/formatsnapshot.html). Pure functions."""

from __future__ import annotations

from lxml import etree

from hosts.virt.spec import SnapshotSpec
from hosts.virt.xml.build import add, parse, render


def snapshot_xml(spec: SnapshotSpec) -> str:
    """To be taken by libvirt: of a stopped domain, or of a running one with its memory."""
    return render(_snapshot(spec))


def taken_snapshot_xml(spec: SnapshotSpec, *, parent: str, created_at: int, domain_xml: str) -> str:
    """To be told to libvirt (``VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE``): the disks of a running
    domain have it already. Such disks are those of a machine whose plug was pulled, so it is
    described as one of a domain that is off. ``domain_xml``: the stored definition."""
    root = _snapshot(spec)
    add(root, "state", "shutoff")
    add(root, "creationTime", created_at)
    if parent:
        add(add(root, "parent"), "name", parent)
    root.append(parse(domain_xml))
    return render(root)


def _snapshot(spec: SnapshotSpec) -> etree._Element:
    root = etree.Element("domainsnapshot")
    add(root, "name", spec.name)
    if spec.description:
        add(root, "description", spec.description)
    add(root, "memory", snapshot="internal" if spec.memory else "no")
    disks = add(root, "disks")
    for target in spec.disks:
        add(disks, "disk", name=target, snapshot="internal")
    return root
