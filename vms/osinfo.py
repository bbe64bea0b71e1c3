"""What an operating system wants, by libosinfo's database (Debian's package ``osinfo-db``).

Read where it is installed (``settings.OSINFO_DIR``), never copied. The format:
https://gitlab.com/libosinfo/osinfo-db, ``data/schema/osinfo.rng.in``. Without the package nothing
is known, and every answer is the product's own default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from lxml import etree

MIB, GIB = 1024**2, 1024**3
# Files are small; one that is not is no part of the database.
FILE_MAX_BYTES = 4 * MIB
ANCESTORS_MAX = 30  # derives-from is a chain, but nothing says that it ends
VERSIONED = re.compile(r"([a-z][a-z-]*?)(\d+(?:\.\d+)*)")
# Virtio's block and network devices, in both of their numberings.
VIRTIO_BLOCK = {"http://pcisig.com/pci/1af4/1001", "http://pcisig.com/pci/1af4/1042"}
VIRTIO_NET = {"http://pcisig.com/pci/1af4/1000", "http://pcisig.com/pci/1af4/1041"}
E1000E = {"http://pcisig.com/pci/8086/10d3"}
WINDOWS = "winnt"
# Microsoft's own demand; the database has no field for it.
TPM_SINCE_WINDOWS = 11


@dataclass(frozen=True, kw_only=True)
class OS:
    """One system. Numbers are 0 where the database says nothing."""

    short_id: str  # debian12
    url: str  # http://debian.org/debian/12: what virt-manager reads in a domain's metadata
    name: str
    family: str  # linux, winnt, freebsd...
    distro: str
    version: str
    released: str  # 2021-08-14, or ""
    min_memory_mib: int = 0
    recommended_memory_mib: int = 0
    min_disk_gib: int = 0
    recommended_disk_gib: int = 0
    min_vcpus: int = 0
    virtio_disk: bool = True
    virtio_net: bool = True
    e1000e: bool = True
    bios: bool = True  # boots by BIOS
    uefi: bool = True

    @property
    def is_windows(self) -> bool:
        return self.family == WINDOWS

    @property
    def wants_tpm(self) -> bool:
        number = re.match(r"\d+", self.version)
        is_new = number is not None and int(number[0]) >= TPM_SINCE_WINDOWS
        return self.is_windows and self.distro == "win" and is_new


@dataclass(frozen=True)
class Found:
    """``exact`` False: the database does not know this version; ``os`` is the newest before it."""

    os: OS
    exact: bool


def find(short_id: str) -> Found | None:
    """None: nothing is known, not even of another version."""
    known = _database(str(settings.OSINFO_DIR))
    if short_id in known:
        return Found(known[short_id], exact=True)
    parts = VERSIONED.fullmatch(short_id)
    if parts is None:
        return None
    wanted = _number(parts[2])
    older = [
        (_number(match[2]), os)
        for name, os in known.items()
        if (match := VERSIONED.fullmatch(name))
        and match[1] == parts[1]
        and _number(match[2]) < wanted
    ]
    return Found(max(older, key=lambda one: one[0])[1], exact=False) if older else None


def is_there() -> bool:
    """Whether the database is installed."""
    return bool(_database(str(settings.OSINFO_DIR)))


def choices() -> list[OS]:
    """What people install today, by name, the newest version first: for the picker."""
    systems: dict[str, OS] = {}
    for os in _database(str(settings.OSINFO_DIR)).values():
        systems.setdefault(os.url, os)  # its first short id, which has the version's number
    recent = [os for os in systems.values() if os.released >= RECENT or not os.released]
    return sorted(recent, key=lambda os: (os.distro, _reversed(os.version), os.name))


RECENT = "2012"  # a year: older ones are found by their short id


def _reversed(version: str) -> tuple[int, ...]:
    return tuple(-part for part in _number(version))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:6])


@lru_cache(maxsize=4)
def _database(folder: str) -> dict[str, OS]:
    """By each short id. Read once in a process: an upgrade of the package is seen after a
    restart."""
    roots = {url: root for root in _roots(Path(folder)) if (url := root.get("id"))}
    systems: dict[str, OS] = {}
    for url, root in roots.items():
        for short_id in root.findall("short-id"):
            if short_id.text:
                systems[short_id.text] = _os(short_id.text, url, root, roots)
    return systems


def _roots(folder: Path) -> Iterator[etree._Element]:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    for path in sorted((folder / "os").glob("*/*.xml")):
        try:
            if path.stat().st_size > FILE_MAX_BYTES:
                continue
            yield from etree.parse(path, parser).getroot().iterfind("os")
        except (OSError, etree.XMLSyntaxError):
            continue  # one broken file takes nothing away from the others


def _os(short_id: str, url: str, root: etree._Element, roots: dict[str, etree._Element]) -> OS:
    line = _ancestors(root, roots)
    devices = _devices(line)
    memory, more_memory = _amount(line, "ram")
    disk, more_disk = _amount(line, "storage")
    vcpus, _more = _amount(line, "n-cpus")
    known = bool(devices)
    firmware = {
        element.get("type"): element.get("supported") != "false"
        for one in reversed(line)
        for element in one.findall("firmware")
        if element.get("arch") == "x86_64"
    }
    return OS(
        short_id=short_id,
        url=url,
        name=_text(root, "name"),
        family=_text(root, "family"),
        distro=_text(root, "distro"),
        version=_text(root, "version"),
        released=_text(root, "release-date"),
        min_memory_mib=-(-memory // MIB),
        recommended_memory_mib=-(-more_memory // MIB),
        min_disk_gib=-(-disk // GIB),
        recommended_disk_gib=-(-more_disk // GIB),
        min_vcpus=vcpus,
        virtio_disk=not known or bool(devices & VIRTIO_BLOCK),
        virtio_net=not known or bool(devices & VIRTIO_NET),
        e1000e=not known or bool(devices & E1000E),
        bios=firmware.get("bios", True),
        uefi=firmware.get("efi", True),
    )


def _ancestors(root: etree._Element, roots: dict[str, etree._Element]) -> list[etree._Element]:
    """It, and what it derives from or clones: they say what it does not."""
    line = [root]
    while len(line) < ANCESTORS_MAX:
        parent = line[-1].find("derives-from")
        if parent is None:
            parent = line[-1].find("clones")
        above = roots.get(parent.get("id") or "") if parent is not None else None
        if above is None or any(above is one for one in line):
            break
        line.append(above)
    return line


def _devices(line: list[etree._Element]) -> set[str]:
    """What it drives by itself; a device may be taken away again by a later version."""
    devices: set[str] = set()
    for root in reversed(line):
        for device in root.findall("./devices/device"):
            name = device.get("id") or ""
            if device.get("supported") == "false":
                devices.discard(name)
            else:
                devices.add(name)
    return devices


def _amount(line: list[etree._Element], what: str) -> tuple[int, int]:
    """(minimum, recommended) of the nearest that names any. Each falls back on the other's kin:
    what is recommended is at least the minimum."""
    least, advised = _nearest(line, "minimum", what), _nearest(line, "recommended", what)
    return least, max(least, advised)


def _nearest(line: list[etree._Element], kind: str, what: str) -> int:
    for root in line:
        for resources in root.findall("resources"):
            if resources.get("arch") not in ("all", "x86_64"):
                continue
            text = resources.findtext(f"{kind}/{what}")
            if text and text.strip().isdecimal() and len(text.strip()) < 19:
                return int(text.strip())
    return 0


def _text(root: etree._Element, tag: str) -> str:
    for element in root.findall(tag):
        if not element.attrib:
            return (element.text or "").strip()
    return ""
