"""What a machine is made of, with nothing open, and how its rows tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from vms.knobs.words import MACHINES
from vms.models import VM, Image


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What goes with the machine wherever it goes, its clones and templates too."""

    machine: str = "q35"
    firmware: str = "bios"
    cpu_mode: str = ""  # the host's own by KVM, all that QEMU can when emulated
    cpu_model: str = ""
    sockets: int = 0  # 0: as libvirt lays them out
    cores: int = 0
    threads: int = 0
    tpm: bool = False
    video: str = "virtio"
    rng: bool = True
    balloon: bool = True
    agent: bool = True
    watchdog: str = ""
    clock: str = "utc"
    hyperv: bool = False
    disc_bus: str = "scsi"
    drive: bool = False  # for discs, empty: of a machine that was made with nothing on it

    def as_json(self) -> dict[str, Any]:
        """What differs from the defaults; the firmware has a column of its own."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name != "firmware" and getattr(self, each.name) != each.default
        }

    def needs(self) -> tuple[str, ...]:
        """What its host must have, as ``hosts.models.Host.lacks`` words it."""
        found = []
        if self.firmware in ("uefi", "secureboot"):
            found.append(self.firmware)
        if self.tpm:
            found.append("tpm")
        if self.machine != MACHINES[0]:
            found.append(f"machine:{self.machine}")
        if self.cpu_mode == "host-passthrough":
            found.append("kvm")
        if self.cpu_mode == "custom":
            found.append(f"cpu:{self.cpu_model}")
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    target: str
    size_gib: int
    bus: str = "virtio"
    cache: str = ""
    discard: str = "unmap"
    io: str = ""
    format: str = "qcow2"


@dataclass(frozen=True, kw_only=True)
class CardPlan:
    network: str
    model: str = "virtio"
    mac: str = ""  # "": a free one


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Settled: nothing in it is open."""

    os_id: str
    knobs: Knobs
    disks: tuple[DiskPlan, ...]  # the first is the one with the system
    cards: tuple[CardPlan, ...]
    discs: tuple[Image, ...] = ()
    boot: tuple[str, ...] = ()  # "": the disc where there is one, then the first disk
    autostart: bool = False
    answers_kind: str = ""
    answers: str = ""

    @property
    def disk_gib(self) -> int:
        return sum(disk.size_gib for disk in self.disks)


def knobs_of(vm: VM) -> Knobs:
    return from_json(vm.hardware, vm.firmware)


def from_json(stored: dict[str, Any], firmware: str) -> Knobs:
    known = {each.name for each in fields(Knobs)}
    kept = {name: value for name, value in stored.items() if name in known}
    return Knobs(**(kept | {"firmware": firmware}))


def of_copies(vm: VM) -> dict[str, Any]:
    """For ``Image.hardware`` of a copy of this machine."""
    disk, card = vm.disks.first(), vm.nics.first()
    kept: dict[str, Any] = dict(vm.hardware)
    if vm.firmware != "bios":
        kept["firmware"] = vm.firmware
    if disk is not None and disk.bus != "virtio":
        kept["disk_bus"] = disk.bus
    if card is not None and card.model != "virtio":
        kept["card_model"] = card.model
    # A layout fits one number of processors, and others may be asked for.
    return {name: kept[name] for name in kept if name not in ("sockets", "cores", "threads")}


def of_machine(vm: VM, *, macs: Iterable[str]) -> Hardware:
    """As its rows say, to make it again; ``macs``: those of its cards that were chosen."""
    chosen = set(macs)
    names = {disk.target: "disk" for disk in vm.disks.all()[:1]}
    names |= {nic.mac: "network" for nic in vm.nics.all()[:1]}
    return Hardware(
        os_id=vm.os_id,
        knobs=knobs_of(vm),
        disks=tuple(
            DiskPlan(
                target=disk.target,
                size_gib=disk.size_gib,
                bus=disk.bus,
                cache=disk.cache,
                discard=disk.discard,
                io=disk.io,
                format=disk.format,
            )
            for disk in vm.disks.all()
        ),
        cards=tuple(
            CardPlan(network=nic.network, model=nic.model, mac=nic.mac if nic.mac in chosen else "")
            for nic in vm.nics.all()
        ),
        discs=tuple(disc.image for disc in vm.extra_discs.select_related("image")),
        boot=tuple(names.get(name, "disc") for name in vm.boot_order),
        autostart=vm.autostart,
        answers_kind=vm.answers_kind,
        answers=vm.answers,
    )
