"""``VolumeSpec`` -> volume XML (https://libvirt.org/formatstorage.html). Pure."""

from __future__ import annotations

from lxml import etree

from hosts.virt.spec import VolumeSpec
from hosts.virt.xml.build import add, render


def volume_xml(spec: VolumeSpec, backing_path: str | None = None) -> str:
    """``backing_path``: where ``spec.backing_volume`` is on the host. Its format is always
    written into the new file's header: a format that QEMU probes is the guest's to forge."""
    root = etree.Element("volume")
    add(root, "name", spec.name)
    add(root, "capacity", spec.capacity_bytes, unit="bytes")
    # Without it libvirt allocates a raw volume in full.
    add(root, "allocation", spec.allocation_bytes or 0, unit="bytes")
    target = add(root, "target")
    add(target, "format", type=spec.format)
    if spec.format == "qcow2":
        add(target, "compat", "1.1")
    if spec.backing_volume is not None:
        if backing_path is None or spec.backing_format is None:
            raise ValueError("an overlay needs its backing volume's path and format")
        backing = add(root, "backingStore")
        add(backing, "path", backing_path)
        add(backing, "format", type=spec.backing_format)
    return render(root)
