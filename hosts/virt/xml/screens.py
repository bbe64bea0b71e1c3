"""Where a domain's VNC screen listens, and the password it asks for. Pure functions.

Each takes a domain's XML as libvirt gave it, with its secrets (``VIR_DOMAIN_XML_SECURE``).
https://libvirt.org/formatdomain.html#graphical-framebuffers
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from lxml import etree

from hosts.virt.exposure import is_local
from hosts.virt.xml.build import add, parse, render

VNC = "./devices/graphics[@type='vnc']"
LOOPBACK = "127.0.0.1"
TIME = "%Y-%m-%dT%H:%M:%S"  # UTC
# QEMU asks for a password only where it was started with one. The stored one is over before the
# machine starts: nobody signs in with it, and each boot gets another while it runs.
OVER = "2000-01-01T00:00:00"


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A running domain's screen on a loopback port."""

    address: str
    port: int
    password: str = field(repr=False)  # "": it asks for none
    valid_to: datetime | None  # None: for ever


def arranged(domain_xml: str, *, by_port: bool, password: str) -> str | None:
    """The stored definition with its screen on a unix socket or, ``by_port``, on a loopback port
    with a password that is over. None: it is so, or an admin has set it otherwise."""
    root = parse(domain_xml)
    vnc = root.find(VNC)
    if vnc is None:
        return None
    if by_port:
        if vnc.get("passwd") is not None or not (_is_socket(vnc) or _is_loopback(vnc)):
            return None
        _listen(vnc, "address")
        vnc.set("passwd", password)
        vnc.set("passwdValidTo", OVER)
    else:
        if vnc.get("passwdValidTo") != OVER:
            return None
        for name in ("passwd", "passwdValidTo"):
            vnc.attrib.pop(name, "")
        _listen(vnc, "socket")
    return render(root)


def listener(domain_xml: str) -> Listener | None:
    """Of a running domain's live XML. None: no screen of it is on a loopback port."""
    vnc = parse(domain_xml).find(VNC)
    if vnc is None or not _is_loopback(vnc) or not vnc.get("port", "").isdigit():
        return None
    until = vnc.get("passwdValidTo")
    return Listener(
        address=_address(vnc),
        port=int(vnc.get("port", "")),
        password=vnc.get("passwd") or "",
        valid_to=datetime.strptime(until, TIME).replace(tzinfo=timezone.utc) if until else None,
    )


def with_password(domain_xml: str, password: str, valid_to: datetime) -> str:
    """The running domain's ``<graphics>`` with that password, for ``virDomainUpdateDeviceFlags``.
    It must have one already. ValueError: there is no VNC."""
    vnc = parse(domain_xml).find(VNC)
    if vnc is None:
        raise ValueError("no VNC")
    vnc.set("passwd", password)
    vnc.set("passwdValidTo", valid_to.astimezone(timezone.utc).strftime(TIME))
    return render(vnc)


def _is_socket(vnc: etree._Element) -> bool:
    return vnc.find("listen[@type='socket']") is not None or vnc.get("socket") is not None


def _is_loopback(vnc: etree._Element) -> bool:
    return not _is_socket(vnc) and is_local(_address(vnc))


def _address(vnc: etree._Element) -> str:
    listen = vnc.find("listen[@type='address']")
    return (vnc.get("listen") if listen is None else listen.get("address")) or ""


def _listen(vnc: etree._Element, kind: str) -> None:
    for old in vnc.findall("listen"):
        vnc.remove(old)
    for name in ("port", "autoport", "listen", "socket", "websocket"):
        vnc.attrib.pop(name, "")
    if kind == "socket":
        add(vnc, "listen", type="socket")
        return
    vnc.set("port", "-1")
    vnc.set("autoport", "yes")
    vnc.set("listen", LOOPBACK)
    add(vnc, "listen", type="address", address=LOOPBACK)
