"""``DomainSpec`` -> domain XML (https://libvirt.org/formatdomain.html). Pure functions.

Disks are named by path, not ``<disk type='volume'>``: AppArmor's virt-aa-helper (Debian, Ubuntu)
does not resolve volumes, so such a guest is refused its own disk. The caller looks the paths up.
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from hosts.virt.spec import DomainSpec
from hosts.virt.xml import devices
from hosts.virt.xml.build import add, render
from hosts.virt.xml.metadata import kvmweb_element, libosinfo_element

# (pool, volume) -> path on the host; of the serial log and the NVRAM only where their pool is a
# directory.
Paths = Mapping[tuple[str, str], str]

# q35 hot-plugs into free PCIe root ports only, and a port cannot be added to a running machine.
SPARE_ROOT_PORTS = 6
DRIVES_PER_CONTROLLER = 7  # libvirt's, of SCSI
HYPERV_SPINLOCK_RETRIES = 8191  # libvirt's documentation and virtinst
X86 = ("x86_64", "i686")


def domain_xml(spec: DomainSpec, paths: Paths) -> str:
    """The whole definition. KeyError when a volume of the spec is not in ``paths``."""
    root = etree.Element("domain", {"type": spec.domain_type})
    add(root, "name", spec.name)
    add(root, "uuid", str(spec.uuid))
    if spec.title:
        add(root, "title", spec.title)
    if spec.description:
        add(root, "description", spec.description)
    _metadata(root, spec)
    add(root, "memory", spec.memory_mib, unit="MiB")
    add(root, "currentMemory", spec.memory_mib, unit="MiB")
    most = max(spec.vcpus, spec.vcpus_max or 0)
    current = spec.vcpus if most > spec.vcpus else None
    add(root, "vcpu", most, placement="static", current=current)
    _os(root, spec, paths)
    _features(root, spec)
    cpu(root, spec)
    _clock(root, spec)
    reboot = "destroy" if spec.kernel else "restart"
    for event, action in (("poweroff", "destroy"), ("reboot", reboot), ("crash", "destroy")):
        add(root, f"on_{event}", action)
    if spec.arch in X86:
        # A guest that suspends itself to RAM or disk looks hung to its owner: offer neither.
        pm = add(root, "pm")
        add(pm, "suspend-to-mem", enabled="no")
        add(pm, "suspend-to-disk", enabled="no")
    _devices(root, spec, paths)
    return render(root)


def _metadata(root: etree._Element, spec: DomainSpec) -> None:
    if not spec.os_id and spec.metadata is None:
        return
    element = add(root, "metadata")
    if spec.os_id:
        element.append(libosinfo_element(spec.os_id))
    if spec.metadata is not None:
        element.append(kvmweb_element(spec.metadata))


def _os(root: etree._Element, spec: DomainSpec, paths: Paths) -> None:
    """Firmware by libvirt's autoselection: it knows where the host keeps OVMF."""
    uefi = spec.firmware in ("uefi", "secureboot")
    os_element = add(root, "os", firmware="efi" if uefi else None)
    add(os_element, "type", "hvm", arch=spec.arch, machine=spec.machine)
    if uefi:
        secure = "yes" if spec.firmware == "secureboot" else "no"
        firmware = add(os_element, "firmware")
        add(firmware, "feature", enabled=secure, name="enrolled-keys")
        add(firmware, "feature", enabled=secure, name="secure-boot")
        nvram = paths.get((spec.nvram.pool, spec.nvram.name)) if spec.nvram else None
        if nvram is not None:
            add(os_element, "nvram", nvram)
    if spec.kernel is not None:
        add(os_element, "kernel", paths[spec.kernel.pool, spec.kernel.kernel])
        add(os_element, "initrd", paths[spec.kernel.pool, spec.kernel.initrd])
        if spec.kernel.cmdline:
            add(os_element, "cmdline", spec.kernel.cmdline)


def _features(root: etree._Element, spec: DomainSpec) -> None:
    features = add(root, "features")
    add(features, "acpi")
    if spec.arch in X86:
        add(features, "apic")
    if _tells_windows(spec):
        _hyperv(features)
    if spec.firmware == "secureboot":
        add(features, "smm", state="on")


def _tells_windows(spec: DomainSpec) -> bool:
    """libvirt does not start an emulated guest with these features."""
    return spec.hyperv and spec.domain_type == "kvm"


def _hyperv(features: etree._Element) -> None:
    """What makes Windows a good guest (https://libvirt.org/formatdomain.html#hypervisor-features,
    and virtinst's choice)."""
    element = add(features, "hyperv", mode="custom")
    add(element, "relaxed", state="on")
    add(element, "vapic", state="on")
    add(element, "spinlocks", state="on", retries=HYPERV_SPINLOCK_RETRIES)
    for name in ("vpindex", "runtime", "synic", "stimer", "frequencies"):
        add(element, name, state="on")


def cpu(root: etree._Element, spec: DomainSpec) -> None:
    """Under KVM the host's own CPU. Under emulation all that QEMU can emulate: distributions of
    today want x86-64-v2 or v3, which the default (qemu64) is not."""
    mode = spec.cpu_mode or ("host-passthrough" if spec.domain_type == "kvm" else "maximum")
    element = add(root, "cpu", mode=mode)
    if mode == "custom":
        element.set("match", "exact")
        element.set("check", "none")
        add(element, "model", spec.cpu_model, fallback="forbid")
    elif mode == "host-passthrough":
        element.set("check", "none")
        element.set("migratable", "on")
    elif mode == "maximum" and spec.arch == "x86_64":
        # Five-level page tables cost an emulated guest a walk on each TLB miss, for nothing.
        add(element, "feature", policy="disable", name="la57")
    if spec.topology is not None:
        sockets, cores, threads = spec.topology
        topology = etree.Element(
            "topology", {"sockets": str(sockets), "cores": str(cores), "threads": str(threads)}
        )
        model = element.find("model")
        element.insert(0 if model is None else 1, topology)


def _clock(root: etree._Element, spec: DomainSpec) -> None:
    clock = add(root, "clock", offset=spec.clock)
    if spec.arch not in X86:
        return
    add(clock, "timer", name="rtc", tickpolicy="catchup")
    add(clock, "timer", name="pit", tickpolicy="delay")
    add(clock, "timer", name="hpet", present="no")
    if _tells_windows(spec):
        add(clock, "timer", name="hypervclock", present="yes")


def _devices(root: etree._Element, spec: DomainSpec, paths: Paths) -> None:
    element = add(root, "devices")
    for disk in spec.disks:
        devices.disk(element, disk, paths[disk.pool, disk.volume])
    for cdrom in spec.cdroms:
        path = paths[cdrom.pool, cdrom.volume] if cdrom.pool and cdrom.volume else None
        devices.cdrom(element, cdrom, path)
    for nic in spec.nics:
        devices.nic(element, nic)
    _controllers(element, spec)
    log = spec.serial_log
    devices.serial_console(element, spec, paths.get((log.pool, log.name)) if log else None)
    _channels(element, spec)
    # Absolute pointer: without it the pointer of the page and the guest's drift apart.
    add(element, "input", type="tablet", bus="usb")
    if spec.tpm:
        devices.tpm(element)
    if spec.vnc:
        devices.vnc(element)
    devices.video(element, spec.video)
    _helpers(element, spec)


def _channels(element: etree._Element, spec: DomainSpec) -> None:
    if spec.agent_channel:
        devices.channel(element, devices.AGENT_CHANNEL)
    if spec.firstboot_channel:
        devices.channel(element, devices.FIRSTBOOT_CHANNEL)


def _helpers(element: etree._Element, spec: DomainSpec) -> None:
    devices.balloon(element, present=spec.balloon)
    if spec.watchdog:
        devices.watchdog(element, spec.watchdog)
    if spec.rng:
        devices.rng(element)
    if spec.arch in X86:
        add(element, "panic", model="isa")


def _controllers(element: etree._Element, spec: DomainSpec) -> None:
    add(element, "controller", type="usb", index=0, model="qemu-xhci")
    on_scsi = [disk.target for disk in spec.disks if disk.bus == "scsi"]
    on_scsi += [cdrom.target for cdrom in spec.cdroms if cdrom.bus == "scsi"]
    # libvirt gives a drive its place by its letter, and adds a controller of a kind of its own
    # where we have none for it.
    scsi = max((_letter(target) // DRIVES_PER_CONTROLLER + 1 for target in on_scsi), default=0)
    serial = spec.agent_channel or spec.firstboot_channel
    for index in range(scsi):
        add(element, "controller", type="scsi", index=index, model="virtio-scsi")
    if serial:
        add(element, "controller", type="virtio-serial", index=0)
    if not spec.machine.startswith(("q35", "pc-q35", "virt")):
        return  # no PCI Express
    add(element, "controller", type="pci", index=0, model="pcie-root")
    used = (
        sum(disk.bus == "virtio" for disk in spec.disks)
        + len(spec.nics)
        + scsi
        + sum((True, serial, spec.balloon, spec.rng))  # True: the USB controller
    )
    for index in range(1, used + SPARE_ROOT_PORTS + 1):
        add(element, "controller", type="pci", index=index, model="pcie-root-port")


def _letter(target: str) -> int:
    """0 for sda, 1 for sdb."""
    return ord(target[-1]) - ord("a")
