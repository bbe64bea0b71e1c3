"""What an operating system wants, and why a choice is unwise: said, never refused.

By libosinfo's database (``vms.osinfo``); codes of ``vms.messages`` with their parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vms import osinfo
from vms.knobs import Hardware, drives_virtio
from vms.models import Image

Said = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Of one system; numbers are 0 where nothing is known."""

    name: str
    exact: bool  # False: ``name`` is the newest version before it that the database knows
    memory_mib: int
    disk_gib: int
    windows: bool


def wanted(os_id: str) -> Wanted | None:
    found = osinfo.find(os_id)
    if found is None:
        return None
    return Wanted(
        name=found.os.name,
        exact=found.exact,
        memory_mib=found.os.recommended_memory_mib,
        disk_gib=found.os.recommended_disk_gib,
        windows=found.os.is_windows,
    )


def of(hardware: Hardware, *, image: Image | None, vcpus: int, memory_mib: int) -> list[Said]:
    """In the order of their weight."""
    os_id = hardware.os_id or (image.os_id if image else "")
    found = osinfo.find(os_id)
    said = list(_of_devices(hardware, image))
    if found is not None:
        said = [*_of_system(found.os, hardware), *said]
        said += _of_size(found.os, hardware, image, vcpus=vcpus, memory_mib=memory_mib)
    return said


def _of_system(system: osinfo.OS, hardware: Hardware) -> Iterator[Said]:
    knobs, name = hardware.knobs, {"os": system.name}
    if not system.bios and knobs.firmware == "bios":
        yield "advice.bios", name
    if not system.uefi and knobs.firmware != "bios":
        yield "advice.uefi", name
    if system.wants_tpm and not knobs.tpm:
        yield "advice.tpm", name
    if system.is_windows and knobs.clock == "utc":
        yield "advice.clock", name
    if system.is_windows and not drives_virtio(hardware):
        if any(disk.bus in ("virtio", "scsi") for disk in hardware.disks[:1]):
            yield "advice.windows_disk", name
        if any(card.model == "virtio" for card in hardware.cards):
            yield "advice.windows_card", name


def _of_devices(hardware: Hardware, image: Image | None) -> Iterator[Said]:
    first = hardware.disks[0]
    if first.bus in ("ide", "sata") and image is not None and image.has_cloud_init:
        yield "advice.cloud_kernel", {"bus": first.bus.upper()}
    for disk in hardware.disks:
        if disk.cache == "unsafe":
            yield "advice.cache_unsafe", {"disk": disk.target}
        if disk.cache == "none" and disk.io == "threads":
            yield "advice.threads", {"disk": disk.target}


def _of_size(
    system: osinfo.OS, hardware: Hardware, image: Image | None, *, vcpus: int, memory_mib: int
) -> Iterator[Said]:
    """A small cloud image may run in less than an installer wants, so the image's own numbers go
    first where it has any."""
    if image is not None and image.min_memory_mib:
        return
    name = {"os": system.name}
    if memory_mib < system.min_memory_mib:
        yield "advice.memory_below", name | {"least": system.min_memory_mib}
    elif memory_mib < system.recommended_memory_mib:
        yield "advice.memory_small", name | {"advised": system.recommended_memory_mib}
    disk_gib = hardware.disks[0].size_gib
    if disk_gib < system.min_disk_gib:
        yield "advice.disk_below", name | {"least": system.min_disk_gib}
    elif disk_gib < system.recommended_disk_gib:
        yield "advice.disk_small", name | {"advised": system.recommended_disk_gib}
    if vcpus < system.min_vcpus:
        yield "advice.vcpus", name | {"least": system.min_vcpus}
