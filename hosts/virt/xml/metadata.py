"""Our element in a domain's ``<metadata>``: who owns it, so that a lost database can be rebuilt.

libvirt keeps one element per namespace and hands it back verbatim
(https://libvirt.org/formatdomain.html#general-metadata).
"""

from __future__ import annotations

from uuid import UUID

from lxml import etree

from hosts.virt.spec import DomainMetadata

KVMWEB_NS = "https://kvmweb.org/xmlns/domain/1.0"
KVMWEB_PREFIX = "kvmweb"
LIBOSINFO_NS = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
FORMAT_VERSION = "1"
FIELDS = ("name", "owner", "team", "site", "image")


def kvmweb_element(metadata: DomainMetadata) -> etree._Element:
    """``<kvmweb:machine>`` with one child per field."""
    return _machine(metadata, f"{{{KVMWEB_NS}}}", {KVMWEB_PREFIX: KVMWEB_NS})


def bare_text(metadata: DomainMetadata) -> str:
    """The same without its namespace, as ``virDomainSetMetadata`` wants it: that adds its own,
    and refuses an element that has it already."""
    return etree.tostring(_machine(metadata, "", {}), encoding="unicode")


def _machine(metadata: DomainMetadata, namespace: str, nsmap: dict[str, str]) -> etree._Element:
    machine = etree.Element(
        f"{namespace}machine",
        {"version": FORMAT_VERSION, "uuid": str(metadata.vm_uuid)},
        nsmap=nsmap,
    )
    for name in FIELDS:
        child = etree.SubElement(machine, f"{namespace}{name}")
        child.text = getattr(metadata, name)
    return machine


def libosinfo_element(os_id: str) -> etree._Element:
    """What virt-manager and Cockpit read to know the guest's system (its libosinfo id)."""
    root = etree.Element(f"{{{LIBOSINFO_NS}}}libosinfo", nsmap={"libosinfo": LIBOSINFO_NS})
    etree.SubElement(root, f"{{{LIBOSINFO_NS}}}os", {"id": os_id})
    return root


def read_kvmweb(parent: etree._Element | None) -> DomainMetadata | None:
    """The other way, from a domain's root or its ``<metadata>``. None: not there, or not ours."""
    machine = None if parent is None else parent.find(f".//{{{KVMWEB_NS}}}machine")
    if machine is None:
        return None
    try:
        vm_uuid = UUID(machine.get("uuid", ""))
    except ValueError:
        return None
    values = {name: machine.findtext(f"{{{KVMWEB_NS}}}{name}") or "" for name in FIELDS}
    return DomainMetadata(vm_uuid=vm_uuid, **values)
