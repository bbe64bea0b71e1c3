"""Does KVM really work here? Boot a guest of one sector and see whether it ends by itself.

``/dev/kvm`` and libvirt's list prove nothing: on a host whose CPU lacks the flag (or whose own
hypervisor does not pass it on) a guest hangs for ever.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import Any
from uuid import UUID, uuid4

import libvirt
from lxml import etree

from hosts.virt import eventloop
from hosts.virt.connection import WORK_TIMEOUT_S, Connection
from hosts.virt.errors import HostUnreachable, NoSuchDomain, VirtError
from hosts.virt.spec import Check, HostFacts
from hosts.virt.xml.build import add, render

log = logging.getLogger("kvmweb.virt")

KEY = "acceleration_probe"
NAME_PREFIX = "kvmweb-probe-"
MEMORY_MIB = 32
SECTOR_BYTES = 512
# SeaBIOS reads no disk that is smaller than a cylinder.
DISK_BYTES = 1024 * 1024
POLL_S = 0.1
# The guest may be gone a moment before libvirt's event says how it ended.
EVENT_GRACE_S = 2.0

# The marker: S5 ("soft off") written to the ACPI PM1a control port, 0x604 on q35 and newer pc,
# 0xb004 on older pc. Real mode, loaded by the BIOS to 0x7c00.
_CODE = bytes.fromhex(
    "fa"  # cli
    "b80020"  # mov ax, 0x2000 (SLP_EN)
    "ba0406ef"  # mov dx, 0x604; out dx, ax
    "ba04b0ef"  # mov dx, 0xb004; out dx, ax
    "f4ebfd"  # hlt; jmp back to it
)
BOOT_SIGNATURE = b"\x55\xaa"
BOOT_SECTOR = _CODE.ljust(SECTOR_BYTES - len(BOOT_SIGNATURE), b"\x00") + BOOT_SIGNATURE


def acceleration(connection: Connection, facts: HostFacts, *, timeout_s: float) -> Check:
    """pass, or fail with ``reason``: no_cpu_flag, not_listed, no_pool, start_failed, crashed,
    hang. Raises HostUnreachable only."""
    if not facts.cpu_virt_flag:
        return _fail("no_cpu_flag")
    if "kvm" not in facts.domain_types:
        return _fail("not_listed")
    return run(connection, domain_type="kvm", arch=facts.arch, timeout_s=timeout_s)


def _fail(reason: str, **params: str) -> Check:
    return Check(key=KEY, result="fail", params={"reason": reason, **params})


def run(connection: Connection, *, domain_type: str, arch: str, timeout_s: float) -> Check:
    """Boot the probe. ``domain_type`` "qemu" proves the probe itself, without KVM."""
    name = NAME_PREFIX + secrets.token_hex(4)
    uuid = uuid4()
    try:
        path = connection.call(lambda conn: _write_sector(conn, name), WORK_TIMEOUT_S)
        if path is None:
            return _fail("no_pool")
        started = time.monotonic()
        text = probe_xml(name, uuid, path, domain_type=domain_type, arch=arch)
        reason = _boot(connection, text, timeout_s)
        seconds = f"{time.monotonic() - started:.1f}"
    except HostUnreachable:
        raise
    except VirtError as error:
        return _fail("start_failed", ref=error.ref)
    finally:
        _clean_up(connection, name, uuid)
    if reason is not None:
        return _fail(reason, seconds=seconds)
    return Check(key=KEY, result="pass", params={"seconds": seconds})


def probe_xml(name: str, uuid: UUID, path: str, *, domain_type: str, arch: str) -> str:
    root = etree.Element("domain", {"type": domain_type})
    add(root, "name", name)
    add(root, "uuid", str(uuid))
    add(root, "memory", MEMORY_MIB, unit="MiB")
    add(root, "vcpu", 1)
    os_element = add(root, "os")
    add(os_element, "type", "hvm", arch=arch, machine="q35")
    add(os_element, "boot", dev="hd")
    features = add(root, "features")
    add(features, "acpi")
    if domain_type == "kvm":
        add(root, "cpu", mode="host-passthrough", check="none")
    devices = add(root, "devices")
    disk = add(devices, "disk", type="file", device="disk")
    add(disk, "driver", name="qemu", type="raw")
    add(disk, "source", file=path)
    add(disk, "target", dev="vda", bus="virtio")
    add(devices, "controller", type="usb", model="none")
    add(devices, "memballoon", model="none")
    return render(root)


def _write_sector(conn: Any, name: str) -> str | None:
    """The probe's disk, in the first directory pool. None: the host has no such pool."""
    for pool in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR):
        if not pool.isActive():
            continue
        root = etree.Element("volume")
        add(root, "name", name)
        add(root, "capacity", DISK_BYTES, unit="bytes")
        add(root, "allocation", 0, unit="bytes")
        add(add(root, "target"), "format", type="raw")
        volume = pool.createXML(render(root), 0)
        stream = conn.newStream(0)
        volume.upload(stream, 0, SECTOR_BYTES, 0)
        stream.send(BOOT_SECTOR)  # far less than one message
        stream.finish()
        return str(volume.path())
    return None


class _Ending:
    """How the probe ended, told by libvirt's event: shut down by itself, or not."""

    def __init__(self) -> None:
        self.detail: int | None = None
        self.told = threading.Event()

    def callback(
        self, _conn: object, _dom: object, event: int, detail: int, _opaque: object
    ) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self.detail = detail
            self.told.set()


def _boot(connection: Connection, text: str, timeout_s: float) -> str | None:
    """None when it powered itself off, else the reason code. The domain is transient and dies
    with our connection; it starts paused, so that no event is missed."""
    ending = _Ending()

    def start(conn: Any) -> tuple[Any, int | None]:
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        dom = conn.createXML(text, flags)
        handle = None
        if eventloop.ensure_running():
            handle = conn.domainEventRegisterAny(
                dom, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, ending.callback, None
            )
        dom.resume()
        return dom, handle

    dom, handle = connection.call(start, WORK_TIMEOUT_S)
    try:
        if not _gone_within(connection, dom, ending, timeout_s):
            return "hang"
        ending.told.wait(EVENT_GRACE_S)
        return None if ending.detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN else "crashed"
    finally:
        if handle is not None:
            connection.call(lambda conn: conn.domainEventDeregisterAny(handle))


def _gone_within(connection: Connection, dom: Any, ending: _Ending, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ending.told.wait(POLL_S):
            return True
        try:
            if not connection.call(lambda _conn: dom.isActive()):
                return True
        except NoSuchDomain:
            return True
    return False


def _clean_up(connection: Connection, name: str, uuid: UUID) -> None:
    """Whatever happened: no domain and no volume stays. A host that went away meanwhile has
    killed the domain (autodestroy) and keeps at most a 1 MiB file."""

    def clean(conn: Any) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # it ended by itself
            conn.lookupByUUIDString(str(uuid)).destroy()
        for pool in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR):
            if pool.isActive():
                _delete_volume(pool, name)

    try:
        connection.call(clean, WORK_TIMEOUT_S)
    except VirtError as error:
        log.warning("the probe %s could not be cleaned up, ref=%s", name, error.ref)


def _delete_volume(pool: Any, name: str) -> None:
    try:
        pool.storageVolLookupByName(name).delete(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
