"""What goes in and out of a running domain: its CD tray, its screen, its addresses."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import libvirt
from PIL import Image

from hosts.virt import parse
from hosts.virt.client.base import Calls
from hosts.virt.connection import WORK_TIMEOUT_S
from hosts.virt.consoles import LibvirtLine
from hosts.virt.errors import Unsupported
from hosts.virt.protocol import ConsoleLine, Ended, Receive
from hosts.virt.xml import edits

# 4K at 24 bits is 24 MiB as PPM; what is larger is not a screen.
SCREENSHOT_LIMIT_BYTES = 64 * 1024 * 1024
PNG_SIGNATURE = b"\x89PNG"
ADDRESS_SOURCES = {
    "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    "agent": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}


class MediaCalls(Calls):
    def eject_cdrom(self, uuid: UUID, target: str) -> None:
        self._on_domain(uuid, lambda dom: _eject(dom, target), WORK_TIMEOUT_S)

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
