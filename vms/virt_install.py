"""``virt-install``'s line for a machine: each option as its manual page words it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vms import answers
from vms.knobs import DiskPlan, Hardware, Knobs

URI = "qemu:///system"
PRESEED_FILE = "preseed.cfg"  # the installer looks for this name
# libosinfo's "any Linux of these years". A name that is newer than the host's osinfo-db (debian12
# on Debian 12 itself) makes virt-install refuse; what it would choose is given in full below.
GENERIC_OS = "linux2020"
HYPERV_FEATURES = (
    "relaxed",
    "vapic",
    "spinlocks",
    "synic",
)
HYPERV_BY_PATH = ("vpindex", "runtime", "stimer", "frequencies")  # it has no words for these
_BOOT_WORDS = {"disc": "cdrom", "disk": "hd", "network": "network"}
Options = list[tuple[str, str]]


def line(
    *,
    name: str,
    vcpus: int,
    memory_mib: int,
    mac: str,
    hardware: Hardware,
    disks: Sequence[str],
    seed: str,
    disc: str,
    discs: Sequence[str],
    domain_type: str,
    location: tuple[str, str] = ("", ""),
) -> str:
    """``location``: paths of the kernel and the initrd on the disc, to start them directly."""
    knobs = hardware.knobs
    options: Options = [
        ("--connect", URI),
        ("--virt-type", domain_type),
        ("--name", name),
        ("--vcpus", _vcpus(knobs, vcpus)),
        ("--memory", str(memory_mib)),
        ("--cpu", _cpu(knobs, domain_type)),
        ("--osinfo", GENERIC_OS),
        *_platform(knobs, domain_type),
        # A disc to install from boots first, and is out after the first reboot.
        *_install(disc, hardware, location),
        *_boot(hardware, disc=bool(disc)),
    ]
    options += [
        ("--disk", _disk(plan, path)) for plan, path in zip(hardware.disks, disks, strict=True)
    ]
    if seed:
        # Debian's cloud kernel has no AHCI driver: a SATA CD-ROM would never be seen.
        options.append(("--controller", "type=scsi,model=virtio-scsi"))
        options.append(("--disk", f"path={option(seed)},device=cdrom,bus=scsi"))
    if knobs.drive:
        options.append(("--disk", f"device=cdrom,bus={knobs.disc_bus}"))
    options += [
        ("--disk", f"path={option(path)},device=cdrom,bus={knobs.disc_bus}") for path in discs
    ]
    for number, card in enumerate(hardware.cards):
        address = mac if number == 0 else card.mac
        told = f"network={option(card.network)},model={card.model}"
        options.append(("--network", f"{told},mac={address}" if address else told))
    options += [*_devices(knobs), ("--noautoconsole", "")]
    if hardware.autostart:
        options.append(("--autostart", ""))
    return "virt-install \\\n  " + " \\\n  ".join(
        f"{flag} {shlex.quote(value)}" if value else flag for flag, value in options
    )


def _vcpus(knobs: Knobs, vcpus: int) -> str:
    if not knobs.sockets:
        return str(vcpus)
    return f"{vcpus},sockets={knobs.sockets},cores={knobs.cores},threads={knobs.threads}"


def _cpu(knobs: Knobs, domain_type: str) -> str:
    if knobs.cpu_mode == "custom":
        return knobs.cpu_model
    usual = "host-passthrough" if domain_type == "kvm" else "maximum"
    return f"mode={knobs.cpu_mode or usual}"


def _platform(knobs: Knobs, domain_type: str) -> Options:
    options: Options = []
    if knobs.machine != "q35":
        options.append(("--machine", knobs.machine))
    if knobs.firmware == "secureboot":
        options.append(("--features", "smm.state=on"))
    if knobs.tpm:
        options.append(("--tpm", "model=tpm-crb,backend.type=emulator,backend.version=2.0"))
    elif knobs.firmware != "bios":
        options.append(("--tpm", "none"))  # virt-install adds one by itself
    if knobs.hyperv and domain_type == "kvm":
        told = ",".join(f"hyperv.{name}.state=on" for name in HYPERV_FEATURES)
        options.append(("--features", f"{told},hyperv.spinlocks.retries=8191"))
        options += [("--xml", f"./features/hyperv/{name}/@state=on") for name in HYPERV_BY_PATH]
    if knobs.clock != "utc":
        options.append(("--clock", f"offset={knobs.clock}"))
    return options


def _install(disc: str, hardware: Hardware, location: tuple[str, str]) -> Options:
    kernel, initrd = location
    if disc and kernel:
        return [
            ("--location", f"{option(disc)},kernel={kernel},initrd={initrd}"),
            ("--initrd-inject", PRESEED_FILE),
            ("--extra-args", answers.PRESEED_CMDLINE),
        ]
    if disc:
        return [("--cdrom", disc)]
    return [("--pxe", "")] if hardware.boot[:1] == ("network",) else [("--import", "")]


def _boot(hardware: Hardware, *, disc: bool) -> Options:
    words = []
    if hardware.knobs.firmware != "bios":
        state = "yes" if hardware.knobs.firmware == "secureboot" else "no"
        words.append("firmware=efi")
        for number, name in enumerate(("enrolled-keys", "secure-boot")):
            feature = f"firmware.feature{number}"
            words += [f"{feature}.name={name}", f"{feature}.enabled={state}"]
    words += [_BOOT_WORDS[word] for word in hardware.boot if word != "disc" or disc]
    return [("--boot", ",".join(words))] if words else []


def _disk(plan: DiskPlan, path: str) -> str:
    words = [f"path={option(path)}", f"format={plan.format}", f"bus={plan.bus}"]
    words += [
        f"{name}={value}"
        for name, value in (("cache", plan.cache), ("discard", plan.discard), ("io", plan.io))
        if value
    ]
    return ",".join(words)


def _devices(knobs: Knobs) -> Options:
    options: Options = []
    if knobs.agent:
        options.append(("--channel", "unix,target.type=virtio,target.name=org.qemu.guest_agent.0"))
    options += [("--graphics", "vnc,listen=socket"), ("--video", knobs.video), ("--sound", "none")]
    if not knobs.rng:
        options.append(("--rng", "none"))
    if not knobs.balloon:
        options.append(("--memballoon", "none"))
    if knobs.watchdog:
        options.append(("--watchdog", f"i6300esb,action={knobs.watchdog}"))
    return options


def option(value: str) -> str:
    """A value inside one of virt-install's comma-separated options."""
    return value.replace(",", ",,")
