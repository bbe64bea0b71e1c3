"""What a host can do, from its capabilities and domain capabilities XML. Pure functions.

https://libvirt.org/formatcaps.html, https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lxml import etree

from hosts.virt.spec import HostFacts
from hosts.virt.xml.build import parse

VIRT_FLAGS = ("vmx", "svm")
X86 = ("x86_64", "i686")
MACHINES_LIMIT = 100
CPU_MODELS_LIMIT = 200


@dataclass(frozen=True, kw_only=True)
class GuestSupport:
    """What ``virConnectGetDomainCapabilities`` says for one virtualisation type."""

    firmwares: tuple[str, ...]
    tpm_emulator: bool
    video_models: tuple[str, ...]
    cpu_modes: tuple[str, ...]
    cpu_models: tuple[str, ...] = ()  # named ones that can be run


NOTHING_KNOWN = GuestSupport(firmwares=(), tpm_emulator=False, video_models=(), cpu_modes=())


def host_cpu_xml(capabilities: str) -> str | None:
    """The ``<cpu>`` of the host, for ``baselineCPU`` to spell out its features."""
    cpu = parse(capabilities).find("./host/cpu")
    return None if cpu is None else etree.tostring(cpu, encoding="unicode")


def virt_flag(*cpu_xmls: str | None) -> str | None:
    """``vmx`` or ``svm`` if any of these CPU descriptions has it. An AMD model (EPYC) contains
    svm without naming it, so one of them should be the expanded baseline."""
    for text in cpu_xmls:
        if text is None:
            continue
        features = {feature.get("name") for feature in parse(text).iter("feature")}
        for flag in VIRT_FLAGS:
            if flag in features:
                return flag
    return None


def domain_types(capabilities: str) -> tuple[str, ...]:
    """For guests of the host's own architecture: ("qemu", "kvm")."""
    root = parse(capabilities)
    own = root.findtext("./host/cpu/arch")
    arch = root.find(f"./guest/arch[@name='{own}']")
    if arch is None:
        return ()
    return tuple(kind for domain in arch.findall("domain") if (kind := domain.get("type")))


def machines(capabilities: str) -> tuple[str, ...]:
    """Machine types of the host's own architecture, the short names (q35, pc) first."""
    root = parse(capabilities)
    own = root.findtext("./host/cpu/arch")
    arch = root.find(f"./guest/arch[@name='{own}']")
    if arch is None:
        return ()
    listed = [
        (machine.get("canonical") is None, machine.text or "") for machine in arch.iter("machine")
    ]
    return tuple(dict.fromkeys(name for _, name in sorted(listed)))[:MACHINES_LIMIT]


def guest_support(domain_capabilities: str) -> GuestSupport:
    root = parse(domain_capabilities)

    def values(path: str) -> tuple[str, ...]:
        return tuple(value.text or "" for value in root.findall(f"{path}/value"))

    firmwares = ["bios"] if root.findtext("arch") in X86 else []
    firmwares += values("./os/enum[@name='firmware']")
    if "efi" in firmwares and "yes" in values("./os/loader/enum[@name='secure']"):
        firmwares.append("secure")
    return GuestSupport(
        firmwares=tuple(dict.fromkeys(firmwares)),
        tpm_emulator="emulator" in values("./devices/tpm/enum[@name='backendModel']"),
        video_models=values("./devices/video/enum[@name='modelType']"),
        cpu_modes=tuple(
            mode.get("name") or ""
            for mode in root.findall("./cpu/mode")
            if mode.get("supported") == "yes"
        ),
        cpu_models=tuple(
            model.text or ""
            for model in root.findall("./cpu/mode[@name='custom']/model")
            if model.get("usable") == "yes"
        )[:CPU_MODELS_LIMIT],
    )


def version(number: int) -> str:
    """libvirt's way to write 9.0.0 as 9000000."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def host_facts(
    capabilities: str,
    *,
    hostname: str,
    cpus: int,
    memory_mib: int,
    libvirt_version: int,
    qemu_version: int,
    flag: str | None,
    support: GuestSupport,
    emulated: GuestSupport,
) -> HostFacts:
    root = parse(capabilities)
    arch = root.findtext("./host/cpu/arch") or ""
    types = domain_types(capabilities)
    uuid = root.findtext("./host/uuid")
    return HostFacts(
        hostname=hostname,
        host_uuid=UUID(uuid) if uuid else None,
        arch=arch,
        cpu_model=root.findtext("./host/cpu/model") or "",
        cpus=cpus,
        memory_mib=memory_mib,
        libvirt_version=version(libvirt_version),
        qemu_version=version(qemu_version),
        domain_types=types,
        # Other architectures have no such flag: there libvirt's word is all there is.
        cpu_virt_flag=flag is not None if arch in X86 else "kvm" in types,
        firmwares=support.firmwares,
        machines=machines(capabilities),
        tpm=support.tpm_emulator,
        videos=support.video_models,
        cpu_models=support.cpu_models,
        cpu_models_emulated=emulated.cpu_models,
    )
