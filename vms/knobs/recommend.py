"""What an operating system wants (``vms.osinfo``), or a copy of a machine: to be built like it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vms import osinfo
from vms.knobs.offer import Offered
from vms.knobs.plan import Knobs, from_json
from vms.models import Image


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """For one operating system; what it is made of stays open to the person."""

    knobs: Knobs = field(default_factory=Knobs)
    disk_bus: str = "virtio"
    card_model: str = "virtio"


def recommended(
    os_id: str, *, has: Offered, with_drivers: bool = False, image: Image | None = None
) -> Recommended:
    """``with_drivers``: a disc with virtio's drivers for Windows is in a drive."""
    if image is not None and image.hardware:
        # A copy of a machine: its disk boots in a machine that is built alike.
        stored = dict(image.hardware)
        knobs = from_json(stored, stored.get("firmware", "bios"))
        bus, model = stored.get("disk_bus", "virtio"), stored.get("card_model", "virtio")
        return Recommended(knobs=knobs, disk_bus=bus, card_model=model)
    found = osinfo.find(os_id)
    if found is None:
        return Recommended()
    system = found.os
    if system.is_windows:
        return _for_windows(system, has, with_drivers=with_drivers)
    firmware = "bios" if system.bios else "uefi"
    return Recommended(
        knobs=Knobs(firmware=firmware, disc_bus="scsi" if system.virtio_disk else "sata"),
        disk_bus="virtio" if system.virtio_disk else "sata",
        card_model=_card(system),
    )


def _card(system: osinfo.OS) -> str:
    if system.virtio_net:
        return "virtio"
    return "e1000e" if system.e1000e else "e1000"


def _for_windows(system: osinfo.OS, has: Offered, *, with_drivers: bool) -> Recommended:
    """It has no virtio of its own; it takes the hardware clock for local time."""
    firmware = "bios"
    if system.wants_tpm or not system.bios:
        firmware = "secureboot" if "secureboot" in has.firmwares else "uefi"
    return Recommended(
        knobs=Knobs(
            firmware=firmware,
            tpm=system.wants_tpm,
            clock="localtime",
            hyperv=True,
            disc_bus="sata",
            video="vga",
        ),
        disk_bus="virtio" if with_drivers else "sata",
        card_model="virtio" if with_drivers else _card(system),
    )
