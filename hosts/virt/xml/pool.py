"""Pool XML (https://libvirt.org/formatstorage.html#storage-pool-xml). Pure."""

from __future__ import annotations

from lxml import etree

from hosts.virt.xml.build import add, render


def directory_pool_xml(name: str, path: str) -> str:
    root = etree.Element("pool", {"type": "dir"})
    add(root, "name", name)
    target = add(root, "target")
    add(target, "path", path)
    permissions = add(target, "permissions")
    # Others may pass through (qemu runs as a user of its own) but not list.
    add(permissions, "mode", "0711")
    return render(root)
