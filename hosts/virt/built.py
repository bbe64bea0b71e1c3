"""A domain's XML -> how it is built, to write rows of it again that make the same. Pure.

The stored definition is read, not the live one: there libvirt has replaced what was asked for by
what it found (a processor model for ``host-model``, a versioned machine type).
"""

from __future__ import annotations

from lxml import etree

from hosts.virt.spec import BuiltDisk, BuiltFacts
from hosts.virt.xml.build import parse
from hosts.virt.xml.devices import AGENT_CHANNEL

WATCHDOG = "i6300esb"  # q35 has another one by itself
DRIVE_TARGET, SEED_TARGET = "sdb", "sda"


def read(text: str) -> BuiltFacts:
    """Raises ValueError for what is no domain's XML."""
    root = parse(text)
    mode = _said(root, "cpu", "mode")
    usual = "host-passthrough" if root.get("type") == "kvm" else "maximum"
    sockets, cores, threads = (
        int(_said(root, "cpu/topology", part) or 0) for part in ("sockets", "cores", "threads")
    )
    drives = [disk for disk in root.findall("devices/disk") if disk.get("device") == "cdrom"]
    buses = [_said(disk, "target", "bus") for disk in drives if _target(disk) != SEED_TARGET]
    return BuiltFacts(
        machine=_machine(_said(root, "os/type", "machine")),
        firmware=_firmware(root),
        cpu_mode="" if mode == usual else mode,
        cpu_model=(root.findtext("cpu/model") or "") if mode == "custom" else "",
        sockets=sockets,
        cores=cores,
        threads=threads,
        tpm=root.find("devices/tpm") is not None,
        video=_said(root, "devices/video/model", "type") or "none",
        rng=root.find("devices/rng") is not None,
        balloon=_said(root, "devices/memballoon", "model") not in ("", "none"),
        agent=root.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']") is not None,
        watchdog=_said(root, f"devices/watchdog[@model='{WATCHDOG}']", "action"),
        clock="localtime" if _said(root, "clock", "offset") == "localtime" else "utc",
        hyperv=root.find("features/hyperv") is not None,
        disc_bus=next(iter(buses), "scsi"),
        drive=any(_target(disk) == DRIVE_TARGET and _is_empty(disk) for disk in drives),
        disks=tuple(_disk(disk) for disk in root.findall("devices/disk") if disk not in drives),
        boot=_boot(root),
    )


def _said(element: etree._Element, path: str, attribute: str) -> str:
    found = element.find(path)
    return "" if found is None else found.get(attribute, "")


def _machine(name: str) -> str:
    """Without its version."""
    return "q35" if "q35" in name else "pc" if name.startswith("pc") else name


def _firmware(root: etree._Element) -> str:
    """By libvirt's choice of a file, or with a file that somebody has named."""
    named = _said(root, "os/loader", "type") == "pflash"
    if root.find("os[@firmware='efi']") is None and not named:
        return "bios"
    feature = root.find("os/firmware/feature[@name='secure-boot']")
    secure = feature.get("enabled") if feature is not None else _said(root, "os/loader", "secure")
    return "secureboot" if secure == "yes" else "uefi"


def _target(disk: etree._Element) -> str:
    return _said(disk, "target", "dev")


def _is_empty(disk: etree._Element) -> bool:
    source = disk.find("source")
    return source is None or not source.attrib


def _disk(disk: etree._Element) -> BuiltDisk:
    return BuiltDisk(
        target=_target(disk),
        bus=_said(disk, "target", "bus"),
        cache=_said(disk, "driver", "cache"),
        io=_said(disk, "driver", "io"),
        discard=_said(disk, "driver", "discard"),
    )


def _boot(root: etree._Element) -> tuple[str, ...]:
    """Disks by target and cards by MAC, in their order."""
    found = []
    for device in (*root.findall("devices/disk"), *root.findall("devices/interface")):
        order = _said(device, "boot", "order")
        if order.isdecimal() and device.get("device") != "cdrom":
            mac = _said(device, "mac", "address").lower()
            found.append((int(order), mac or _target(device)))
    return tuple(name for _place, name in sorted(found))
