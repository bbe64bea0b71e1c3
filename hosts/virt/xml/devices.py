"""The devices of a domain (https://libvirt.org/formatdomain.html#devices), one function each."""

from __future__ import annotations

from lxml import etree

from hosts.virt.spec import CdromSpec, DiskSpec, DomainSpec, NicSpec
from hosts.virt.xml.build import add

AGENT_CHANNEL = "org.qemu.guest_agent.0"
FIRSTBOOT_CHANNEL = "org.kvmweb.firstboot.0"
# Where libvirt's own logs are, for pools that are no directory.
SERIAL_LOG = "/var/log/libvirt/qemu/{name}-serial0.log"
BALLOON_PERIOD_S = 10


def source_attributes(path: str) -> tuple[str, dict[str, str]]:
    """libvirt's disk type and ``<source>`` attributes: LVM volumes are block devices."""
    return ("block", {"dev": path}) if path.startswith("/dev/") else ("file", {"file": path})


def disk(parent: etree._Element, spec: DiskSpec, path: str) -> etree._Element:
    kind, source = source_attributes(path)
    element = add(parent, "disk", type=kind, device="disk")
    add(
        element,
        "driver",
        name="qemu",
        type=spec.format,  # always said: a probed format is the guest's to forge
        cache=spec.cache,
        io=spec.io,
        discard=spec.discard,
    )
    add(element, "source", **source)
    add(element, "target", dev=spec.target, bus=spec.bus)
    if spec.serial:
        add(element, "serial", spec.serial)
    _boot(element, spec.boot_order)
    return element


def cdrom(parent: etree._Element, spec: CdromSpec, path: str | None) -> etree._Element:
    kind, source = source_attributes(path) if path else ("file", None)
    element = add(parent, "disk", type=kind, device="cdrom")
    add(element, "driver", name="qemu", type="raw")
    if source is not None:
        add(element, "source", **source)
    add(element, "target", dev=spec.target, bus=spec.bus)
    add(element, "readonly")
    _boot(element, spec.boot_order)
    return element


def nic(parent: etree._Element, spec: NicSpec) -> etree._Element:
    element = add(parent, "interface", type="bridge" if spec.bridge else "network")
    add(element, "mac", address=spec.mac)
    if spec.bridge:
        add(element, "source", bridge=spec.bridge)
    else:
        add(element, "source", network=spec.network)
    add(element, "model", type=spec.model)
    if not spec.link_up:
        add(element, "link", state="down")
    _boot(element, spec.boot_order)
    return element


def _boot(element: etree._Element, order: int | None) -> None:
    if order is not None:
        add(element, "boot", order=order)


def serial_console(parent: etree._Element, spec: DomainSpec, log: str | None) -> None:
    """One pty, which is the console as well; virtlogd keeps what it says in ``log``, over restarts.
    Which chip it is follows from the machine type."""
    serial = add(parent, "serial", type="pty")
    if spec.serial_log is not None:
        add(serial, "log", file=log or SERIAL_LOG.format(name=spec.name), append="on")
    add(serial, "target", port=0)
    console = add(parent, "console", type="pty")
    add(console, "target", type="serial", port=0)


def channel(parent: etree._Element, name: str) -> None:
    """A virtio port; libvirt makes its host end, a unix socket of a name of its own."""
    element = add(parent, "channel", type="unix")
    add(element, "target", type="virtio", name=name)


def vnc(parent: etree._Element) -> None:
    """On a unix socket that libvirt names: no port exists that another machine could inherit.
    No keymap: with QEMU's extended key events the browser sends scan codes."""
    element = add(parent, "graphics", type="vnc", sharePolicy="force-shared")
    add(element, "listen", type="socket")


def video(parent: etree._Element, model: str) -> None:
    element = add(parent, "video")
    if model == "none":
        add(element, "model", type="none")
    else:
        add(element, "model", type=model, heads=1, primary="yes")


def balloon(parent: etree._Element, *, present: bool) -> None:
    if not present:
        add(parent, "memballoon", model="none")
        return
    element = add(parent, "memballoon", model="virtio", freePageReporting="on")
    add(element, "stats", period=BALLOON_PERIOD_S)


def rng(parent: etree._Element) -> None:
    element = add(parent, "rng", model="virtio")
    add(element, "backend", "/dev/urandom", model="random")


def watchdog(parent: etree._Element, action: str) -> None:
    """Intel's 6300ESB, which Linux and Windows know."""
    add(parent, "watchdog", model="i6300esb", action=action)


def tpm(parent: etree._Element) -> None:
    element = add(parent, "tpm", model="tpm-crb")
    add(element, "backend", type="emulator", version="2.0")
