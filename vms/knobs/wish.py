"""What a person said, where "" and None mean "as recommended"."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from vms.models import Image


@dataclass(frozen=True, kw_only=True)
class DiskWish:
    """Of one disk; ``size_gib`` None only for the first, whose size is asked for apart."""

    size_gib: int | None = None
    bus: str = ""
    cache: str = ""
    discard: str = ""
    io: str = ""
    format: str = ""


@dataclass(frozen=True, kw_only=True)
class CardWish:
    network: str = ""  # "" only for the first, whose network is asked for apart
    model: str = ""
    mac: str = ""


@dataclass(frozen=True, kw_only=True)
class Wish:
    os_id: str = ""
    machine: str = ""
    firmware: str = ""
    cpu_mode: str = ""
    cpu_model: str = ""
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    tpm: bool | None = None
    video: str = ""
    rng: bool | None = None
    balloon: bool | None = None
    agent: bool | None = None
    watchdog: str = ""
    clock: str = ""
    hyperv: bool | None = None
    disc_bus: str = ""
    disk: DiskWish = DiskWish()
    disks: tuple[DiskWish, ...] = ()
    card: CardWish = CardWish()
    cards: tuple[CardWish, ...] = ()
    discs: tuple[Image, ...] = ()
    boot: tuple[str, ...] = ()
    autostart: bool = False
    answers_kind: str = ""
    answers: str = ""

    def as_json(self) -> dict[str, Any]:
        """What differs from a wish for nothing, to recognise the same request."""
        told = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != each.default
        }
        told = {
            name: asdict(value) if isinstance(value, (DiskWish, CardWish)) else value
            for name, value in told.items()
        }
        for name in ("disks", "cards"):
            if name in told:
                told[name] = [asdict(one) for one in told[name]]
        if "discs" in told:
            told["discs"] = [image.pk for image in told["discs"]]
        return told
