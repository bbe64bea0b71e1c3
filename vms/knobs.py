"""What a machine is built of beyond its size: processor, firmware, disks, cards, devices.

``Wish`` is what a person said, where "" and None mean "as recommended"; ``settle`` makes of it,
of the operating system's needs (``vms.osinfo``) and of what the hosts have a ``Hardware`` in which
nothing is open, or gathers what is wrong. libvirt's words; the database is read, never a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from accounts.errors import Invalid
from hosts.models import Host, Network
from vms import answers, osinfo
from vms.models import VM, Image, Nic

if TYPE_CHECKING:
    from vms.provisioning.validation import Problems

MACHINES = ("q35", "pc")
FIRMWARES = ("bios", "uefi", "secureboot")
CPU_MODES = ("host-passthrough", "host-model", "maximum", "custom")
VIDEOS = ("virtio", "vga", "bochs", "qxl")
WATCHDOGS = ("reset", "poweroff", "pause")
CLOCKS = ("utc", "localtime")
BUSES = ("virtio", "scsi", "sata", "ide")
DISC_BUSES = ("scsi", "sata")
CACHES = ("none", "writeback", "writethrough", "directsync", "unsafe")
IOS = ("native", "threads", "io_uring")
DISCARDS = ("unmap", "ignore")
FORMATS = ("qcow2", "raw")
CARD_MODELS = ("virtio", "e1000e", "e1000", "rtl8139")
BOOTS = ("disc", "disk", "network")
DISKS_MAX, CARDS_MAX, DISCS_MAX = 16, 8, 2  # beyond the first disc
IDE_MAX = 4
THREADS_MAX = 64
OS_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}")
CPU_MODEL = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
LOCAL_UNICAST = 2  # the two low bits of its first byte: given by whoever runs the machines
TAP_BYTE = 0xFE  # libvirt keeps these for its own end of the cable
# qemu-img makes these caches and modes work together only so.
DIRECT_CACHES = ("none", "directsync")


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


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What some host that takes machines has."""

    firmwares: tuple[str, ...]
    machines: tuple[str, ...]
    tpm: bool
    kvm: bool
    videos: tuple[str, ...]
    cpu_models: tuple[str, ...]
    pxe: bool  # some network boots machines


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


def offered() -> Offered:
    hosts = list(Host.objects.filter(mode=Host.Mode.ACTIVE))

    def any_of(need: str) -> bool:
        return any(not host.lacks([need]) for host in hosts)

    def union(key: str) -> set[str]:
        return {value for host in hosts for value in host.facts.get(key, ())}

    videos = union("videos")
    return Offered(
        firmwares=tuple(one for one in FIRMWARES if one == "bios" or any_of(one)),
        machines=tuple(one for one in MACHINES if one == "q35" or any_of(f"machine:{one}")),
        tpm=any_of("tpm"),
        kvm=any_of("kvm"),
        videos=tuple(one for one in VIDEOS if one in ("virtio", "vga") or one in videos),
        cpu_models=tuple(sorted({model for host in hosts for model in host.cpu_models})),
        pxe=bool(Network.that_boot()),
    )


def knobs_of(vm: VM) -> Knobs:
    return from_json(vm.hardware, vm.firmware)


def from_json(stored: dict[str, Any], firmware: str) -> Knobs:
    known = {each.name for each in fields(Knobs)}
    kept = {name: value for name, value in stored.items() if name in known}
    return Knobs(**(kept | {"firmware": firmware}))


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """For one operating system; what it is made of stays open to the person."""

    knobs: Knobs = Knobs()
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


# --- from a wish to hardware ---------------------------------------------------------------------


@dataclass
class Settling:
    """Gathers problems under the inputs' names: ``disk_bus``, ``disk2_bus``, ``nic3_mac``..."""

    problems: Problems
    has: Offered
    taken_macs: set[str] = field(default_factory=set)

    def one_of(self, name: str, value: str, allowed: Iterable[str]) -> None:
        if value not in tuple(allowed):
            self.problems.add(name, "vm.knob_unknown", given=value[:40])


def settle(
    problems: Problems,
    wish: Wish,
    *,
    image: Image | None,
    vcpus: int,
    disk_gib: int,
    network: str,
    networks: set[str],
    linked: bool,
    many: bool = False,
) -> Hardware:
    """``networks``: those that may be chosen. ``many``: for a batch, whose cards cannot share a
    MAC. What is wrong is in ``problems`` afterwards, and the result is then of no use."""
    has = offered()
    os_id = wish.os_id or (image.os_id if image else "")
    known = osinfo.find(wish.os_id) is not None or not osinfo.is_there()
    if wish.os_id and not (known and OS_ID.fullmatch(wish.os_id)):
        problems.add("os_id", "vm.os_unknown", name=wish.os_id[:40])
    drivers = any(has_virtio_drivers(disc) for disc in wish.discs)
    advice = recommended(os_id, has=has, with_drivers=drivers, image=image)
    settling = Settling(problems, has)
    _check_answers(problems, wish, image)
    knobs = _knobs(settling, wish, replace(advice.knobs, drive=image is None), vcpus)
    return Hardware(
        os_id=wish.os_id,
        knobs=knobs,
        disks=_disks(settling, wish, advice, knobs, disk_gib, linked=linked),
        cards=_cards(settling, wish, advice, network, networks, many=many),
        discs=_discs(problems, wish),
        boot=_boot(problems, wish, image, network),
        autostart=wish.autostart,
        answers_kind=wish.answers_kind,
        answers=wish.answers,
    )


def _check_answers(problems: Problems, wish: Wish, image: Image | None) -> None:
    if not wish.answers_kind and not wish.answers.strip():
        return
    if image is None or image.kind != Image.Kind.ISO:
        problems.add("answers", "answers.no_disc")
        return
    try:
        answers.check(wish.answers_kind, wish.answers)
    except Invalid as error:
        for name, code in error.fields.items():
            problems.add(name, code, **error.params)


def drives_virtio(hardware: Hardware) -> bool:
    """Whether a disc with virtio's drivers for Windows is in a drive."""
    return any(has_virtio_drivers(disc) for disc in hardware.discs)


def has_virtio_drivers(image: Image) -> bool:
    """A disc with virtio's drivers for Windows, as Fedora publishes it (virtio-win.iso)."""
    return "virtio-win" in (image.os_id, image.name.lower()[:10])


def _knobs(settling: Settling, wish: Wish, advice: Knobs, vcpus: int) -> Knobs:
    given = {
        each.name: value
        for each in fields(Knobs)
        if (value := getattr(wish, each.name, None)) not in ("", None)
    }
    knobs = replace(advice, **given)
    if "machine" in given and "firmware" not in given and knobs.machine != "q35":
        knobs = replace(
            knobs, firmware="bios" if advice.firmware == "secureboot" else knobs.firmware
        )
    problems, has = settling.problems, settling.has
    settling.one_of("machine", knobs.machine, MACHINES)
    settling.one_of("firmware", knobs.firmware, FIRMWARES)
    settling.one_of("video", knobs.video, VIDEOS)
    settling.one_of("clock", knobs.clock, CLOCKS)
    settling.one_of("watchdog", knobs.watchdog, ("", *WATCHDOGS))
    settling.one_of("cpu_mode", knobs.cpu_mode, ("", *CPU_MODES))
    settling.one_of("disc_bus", knobs.disc_bus, DISC_BUSES)
    if knobs.machine in MACHINES and knobs.machine not in has.machines:
        problems.add("machine", "vm.host_lacks", need=knobs.machine)
    if knobs.firmware in FIRMWARES and knobs.firmware not in has.firmwares:
        problems.add("firmware", "vm.host_lacks", need=knobs.firmware)
    if knobs.firmware == "secureboot" and knobs.machine != "q35":
        problems.add("firmware", "vm.secureboot_q35")
    if knobs.tpm and not has.tpm:
        problems.add("tpm", "vm.host_lacks", need="TPM 2.0")
    _check_cpu(settling, knobs)
    return _with_topology(problems, knobs, vcpus)


def _check_cpu(settling: Settling, knobs: Knobs) -> None:
    problems = settling.problems
    if knobs.cpu_mode == "host-passthrough" and not settling.has.kvm:
        problems.add("cpu_mode", "vm.host_lacks", need="KVM")
    if knobs.cpu_mode != "custom":
        if knobs.cpu_model:
            problems.add("cpu_model", "vm.cpu_model_mode")
        return
    if not CPU_MODEL.fullmatch(knobs.cpu_model) or (knobs.cpu_model not in settling.has.cpu_models):
        problems.add("cpu_model", "vm.cpu_model_unknown", given=knobs.cpu_model[:40])


def _with_topology(problems: Problems, knobs: Knobs, vcpus: int) -> Knobs:
    layout = (knobs.sockets, knobs.cores, knobs.threads)
    if not any(layout):
        return knobs
    # Cut off: a number of thousands of digits is no product that can be shown.
    sockets, cores, threads = (min(max(1, part), THREADS_MAX + 1) for part in layout)
    if any(part < 0 or part > THREADS_MAX for part in layout) or sockets * cores * threads != vcpus:
        problems.add("sockets", "vm.topology_product", product=sockets * cores * threads, n=vcpus)
    return replace(knobs, sockets=sockets, cores=cores, threads=threads)


def _disks(
    settling: Settling,
    wish: Wish,
    advice: Recommended,
    knobs: Knobs,
    disk_gib: int,
    *,
    linked: bool,
) -> tuple[DiskPlan, ...]:
    problems = settling.problems
    wishes = (replace(wish.disk, size_gib=disk_gib), *wish.disks)
    if len(wishes) > DISKS_MAX:
        problems.add("disks", "vm.disks_many", limit=DISKS_MAX)
        wishes = wishes[:DISKS_MAX]
    plans: list[DiskPlan] = []
    used: set[str] = set()
    for number, one in enumerate(wishes, start=1):
        name = "disk" if number == 1 else f"disk{number}"
        plan = _disk(settling, name, one, advice.disk_bus, knobs)
        target = _target(plan.bus, used)
        if not target:
            problems.add(f"{name}_bus", "vm.bus_full", bus=plan.bus)
        used.add(target)
        plans.append(replace(plan, target=target))
    if linked and plans[0].format != "qcow2":
        problems.add("disk_format", "vm.linked_is_qcow2")
    return tuple(plans)


def _disk(settling: Settling, name: str, wish: DiskWish, bus: str, knobs: Knobs) -> DiskPlan:
    from vms.provisioning.validation import DISK_GIB_MAX

    problems = settling.problems
    plan = DiskPlan(
        target="",
        size_gib=wish.size_gib or 0,
        bus=wish.bus or bus,
        cache=wish.cache,
        discard=wish.discard or "unmap",
        io=wish.io,
        format=wish.format or "qcow2",
    )
    settling.one_of(f"{name}_bus", plan.bus, BUSES)
    settling.one_of(f"{name}_cache", plan.cache, ("", *CACHES))
    settling.one_of(f"{name}_discard", plan.discard, DISCARDS)
    settling.one_of(f"{name}_io", plan.io, ("", *IOS))
    settling.one_of(f"{name}_format", plan.format, FORMATS)
    if not 1 <= plan.size_gib <= DISK_GIB_MAX and name != "disk":
        problems.add(f"{name}_gib", "vm.disk_range", maximum=DISK_GIB_MAX)
    if plan.bus == "ide" and knobs.machine != "pc":
        problems.add(f"{name}_bus", "vm.ide_needs_pc")
    if plan.io == "native" and plan.cache not in DIRECT_CACHES:
        problems.add(f"{name}_io", "vm.io_native_cache")
    return plan


# The letters before are the seed's, the discs' and the drives' that may come.
_LETTERS = {"virtio": ("vd", "a"), "scsi": ("sd", "g"), "sata": ("sd", "g"), "ide": ("hd", "a")}


def _target(bus: str, used: set[str]) -> str:
    """ "": no place is left on it."""
    prefix, first = _LETTERS.get(bus, _LETTERS["virtio"])
    most = IDE_MAX if bus == "ide" else 20
    letters = [chr(ord(first) + index) for index in range(most)]
    return next((f"{prefix}{letter}" for letter in letters if f"{prefix}{letter}" not in used), "")


def _cards(
    settling: Settling,
    wish: Wish,
    advice: Recommended,
    network: str,
    networks: set[str],
    *,
    many: bool,
) -> tuple[CardPlan, ...]:
    problems = settling.problems
    wishes = (replace(wish.card, network=network), *wish.cards)
    if len(wishes) > CARDS_MAX:
        problems.add("cards", "vm.cards_many", limit=CARDS_MAX)
        wishes = wishes[:CARDS_MAX]
    plans = []
    for number, one in enumerate(wishes, start=1):
        name = "nic" if number == 1 else f"nic{number}"
        plan = CardPlan(
            network=one.network, model=one.model or advice.card_model, mac=one.mac.strip().lower()
        )
        settling.one_of(f"{name}_model", plan.model, CARD_MODELS)
        if number > 1 and plan.network not in networks:
            problems.add(f"{name}_network", "vm.network_unknown", name=plan.network[:64])
        if plan.mac:
            _check_mac(settling, f"{name}_mac", plan.mac, many=many)
        plans.append(plan)
    return tuple(plans)


def _check_mac(settling: Settling, name: str, mac: str, *, many: bool) -> None:
    problems = settling.problems
    if many:
        problems.add(name, "vm.mac_of_many")
        return
    first = int(mac[:2], 16) if MAC.fullmatch(mac) else TAP_BYTE
    if first & 3 != LOCAL_UNICAST or first == TAP_BYTE:
        problems.add(name, "vm.mac_wrong", given=mac[:20])
    elif (
        mac in settling.taken_macs
        or Nic.objects.filter(mac=mac, vm__deleted_at__isnull=True).exists()
    ):
        problems.add(name, "vm.mac_taken", mac=mac)
    settling.taken_macs.add(mac)


def _discs(problems: Problems, wish: Wish) -> tuple[Image, ...]:
    if len(wish.discs) > DISCS_MAX:
        problems.add("discs", "vm.discs_many", limit=DISCS_MAX)
    for disc in wish.discs:
        if disc.kind != Image.Kind.ISO or disc.state != Image.State.READY:
            problems.add("discs", "vm.disc_not_iso", name=disc.name)
    return wish.discs[:DISCS_MAX]


def _boot(problems: Problems, wish: Wish, image: Image | None, network: str) -> tuple[str, ...]:
    if not set(wish.boot) <= set(BOOTS) or len(set(wish.boot)) != len(wish.boot):
        problems.add("boot", "vm.boot_unknown")
    if "disc" in wish.boot and not (image is not None and image.kind == Image.Kind.ISO):
        problems.add("boot", "vm.boot_no_disc")
    if "network" in wish.boot and network not in Network.that_boot():
        problems.add("boot", "vm.boot_no_pxe", network=network[:64])
    return wish.boot
