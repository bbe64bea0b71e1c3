"""What goes in and out of a running domain: its CD tray, its screen, its addresses."""

from __future__ import annotations

import io
import secrets
import string
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import libvirt
from PIL import Image

from hosts.virt import parse
from hosts.virt.client.base import Calls
from hosts.virt.connection import WORK_TIMEOUT_S
from hosts.virt.consoles import LibvirtLine
from hosts.virt.errors import NoPassword, Unsupported, WrongState
from hosts.virt.protocol import ConsoleLine, Ended, Receive
from hosts.virt.spec import DisplayPort
from hosts.virt.xml import edits, screens

# 4K at 24 bits is 24 MiB as PPM; what is larger is not a screen.
SCREENSHOT_LIMIT_BYTES = 64 * 1024 * 1024
PNG_SIGNATURE = b"\x89PNG"
ADDRESS_SOURCES = {
    "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    "agent": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}

VNC_PASSWORD_CHARS = 8  # the protocol takes no more
# By the host's clock, which may differ from ours; what is signed in stays.
PASSWORD_LASTS = timedelta(hours=1)
PASSWORD_LEFT = timedelta(minutes=30)


class MediaCalls(Calls):
    def eject_cdrom(self, uuid: UUID, target: str) -> None:
        self._on_domain(uuid, lambda dom: _eject(dom, target), WORK_TIMEOUT_S)

    def forget_kernel(self, uuid: UUID) -> None:
        self._on_domain(uuid, _forget_kernel, WORK_TIMEOUT_S)

    def addresses(self, uuid: UUID, *, source: str = "lease") -> dict[str, list[str]]:
        number = ADDRESS_SOURCES[source]
        return parse.addresses(self._on_domain(uuid, lambda dom: dom.interfaceAddresses(number, 0)))

    def screenshot(self, uuid: UUID) -> bytes:
        mime, data = self._on_domain(uuid, _screenshot)
        if data.startswith(PNG_SIGNATURE) or mime == "image/png":
            return data
        with Image.open(io.BytesIO(data), formats=("PPM",)) as image:
            png = io.BytesIO()
            image.save(png, "PNG")
        return png.getvalue()

    def open_graphics_fd(self, uuid: UUID) -> int:
        if self.connection.remote:
            raise Unsupported("no descriptor can be passed from another machine")
        flags = libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH
        return int(self._on_domain(uuid, lambda dom: dom.openGraphicsFD(0, flags)))

    def arrange_display(self, uuid: UUID, *, by_port: bool) -> None:
        self._on_domain(uuid, lambda dom: _arrange(dom, by_port=by_port))

    def display_port(self, uuid: UUID) -> DisplayPort:
        return self._on_domain(uuid, _display_port)

    def open_console(self, uuid: UUID, receive: Receive, ended: Ended) -> ConsoleLine:
        return LibvirtLine(self.connection.uri, uuid, receive, ended)


def _eject(dom: Any, target: str) -> None:
    """Live first, by force: a guest that has it mounted holds the tray."""
    if dom.isActive():
        emptied = edits.ejected_cdrom(dom.XMLDesc(0), target)
        if emptied is not None:
            dom.updateDeviceFlags(
                emptied,
                libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE,
            )
    if dom.isPersistent():
        stored = edits.ejected_cdrom(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), target)
        if stored is not None:
            dom.updateDeviceFlags(stored, libvirt.VIR_DOMAIN_DEVICE_MODIFY_CONFIG)


def _forget_kernel(dom: Any) -> None:
    if not dom.isPersistent():
        return
    stored = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    changed = edits.without_kernel(stored)
    if changed is not None:
        dom.connect().defineXMLFlags(changed, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def _arrange(dom: Any, *, by_port: bool) -> None:
    if not dom.isPersistent():
        return
    stored = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    changed = screens.arranged(stored, by_port=by_port, password=_vnc_password())
    if changed is not None:
        dom.connect().defineXMLFlags(changed, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def _display_port(dom: Any) -> DisplayPort:
    boot = dom.ID()
    if boot < 0:
        raise WrongState("the domain is off: it shows no screen")
    live = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    found = screens.listener(live)
    if found is None:
        raise Unsupported("its screen is on no loopback port")
    if not found.password:
        raise NoPassword("a port alone does not tell whose screen it is")
    now = datetime.now(timezone.utc)
    password = found.password
    if found.valid_to is not None and found.valid_to - now < PASSWORD_LEFT:
        password = _vnc_password()
        dom.updateDeviceFlags(
            screens.with_password(live, password, now + PASSWORD_LASTS),
            libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE,
        )
    return DisplayPort(address=found.address, port=found.port, password=password, boot=boot)


def _vnc_password() -> str:
    letters = string.ascii_letters + string.digits
    return "".join(secrets.choice(letters) for _ in range(VNC_PASSWORD_CHARS))


def _screenshot(dom: Any) -> tuple[str, bytes]:
    stream = dom.connect().newStream(0)
    mime = dom.screenshot(stream, 0)
    chunks, size = [], 0
    try:
        while chunk := stream.recv(libvirt.virStorageVol.streamBufSize):
            chunks.append(chunk)
            size += len(chunk)
            if size > SCREENSHOT_LIMIT_BYTES:
                raise Unsupported("the screen is larger than any screen")
    except BaseException:
        stream.abort()
        raise
    stream.finish()
    return str(mime), b"".join(chunks)
