"""A domain's XML to be read by people: without secrets, and comparable. Pure."""

from __future__ import annotations

from lxml import etree

from hosts.virt.xml.build import parse, render

MASK = "•••"
# libvirt leaves passwords out unless asked (VIR_DOMAIN_XML_SECURE); an admin may have put some
# where it does not look.
_SECRET_ATTRIBUTES = ("passwd", "password")
_SECRET_TEXTS = ("password", "passphrase")
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_OF_FILES = ("file", "dev", "path")
_WITH_PATHS = ("kernel", "initrd", "loader", "nvram")
# What only something that runs has, or has otherwise each time.
_OF_RUNS = ("alias", "seclabel")


def shown(text: str) -> str:
    """Raises ValueError for what is no XML."""
    root = _parsed(text)
    for element in root.iter(etree.Element):
        for name in _SECRET_ATTRIBUTES:
            if name in element.attrib:
                element.set(name, MASK)
        if element.tag in _SECRET_TEXTS and (element.text or "").strip():
            element.text = MASK
    for env in root.iter(f"{_QEMU}env"):
        env.set("value", MASK)
    for argument in root.iter(f"{_QEMU}arg"):
        if "secret" in argument.get("value", "") or "password" in argument.get("value", ""):
            argument.set("value", MASK)
    for entry in root.findall("./sysinfo//entry"):
        entry.text = MASK  # SMBIOS and fw_cfg carry cloud-init's data on some sites
    return render(root)


def files_of(text: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Every file that a domain's definition names, wherever in it: paths, and (pool, volume).
    Backing files of its disks are among them where libvirt tells the chain."""
    root = _parsed(text)
    paths: set[str] = set()
    volumes: set[tuple[str, str]] = set()
    for element in root.iter(etree.Element):
        paths |= {value for name in _OF_FILES if (value := element.get(name, ""))[:1] == "/"}
        if element.tag in _WITH_PATHS and (said := (element.text or "").strip())[:1] == "/":
            paths.add(said)
        if element.tag == "source" and element.get("pool") and element.get("volume"):
            volumes.add((element.get("pool", ""), element.get("volume", "")))
    return paths, volumes


def comparable(text: str) -> str:
    root = _parsed(text)
    _without(root, "id")
    for element in list(root.iter(etree.Element)):
        _without(element, "index")
        if element.tag in _OF_RUNS and (parent := element.getparent()) is not None:
            parent.remove(element)
    return render(root)


def _parsed(text: str) -> etree._Element:
    try:
        return parse(text)
    except etree.XMLSyntaxError as error:
        raise ValueError("no XML") from error


def _without(element: etree._Element, name: str) -> None:
    if name in element.attrib:
        del element.attrib[name]
