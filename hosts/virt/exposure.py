"""What of a running domain can be reached from the network: screens and serial lines that listen.

Read from the live XML, where libvirt writes the address and port that QEMU got
(https://libvirt.org/formatdomain.html, "Graphical framebuffers" and "Consoles, serial ...").
Loopback and unix sockets are not reachable; everything else is, whatever a firewall may do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from lxml import etree

from hosts.virt.spec import Check
from hosts.virt.xml.build import parse

KEY = "consoles_closed"
NAMED = 5  # so many are named, the rest counted
# libvirt shows a serial line as the console again.
LINES = {
    "serial": "serial line",
    "console": "serial line",
    "parallel": "parallel line",
    "channel": "channel",
}


def exposed(text: str) -> list[str]:
    """``["VNC on 0.0.0.0:5900"]``, of a domain's live XML; empty when nothing listens."""
    root = parse(text)
    found = [
        f"{(graphics.get('type') or '').upper()} on {address}:{port}"
        for graphics in root.iterfind("./devices/graphics")
        for port in _ports(graphics)
        for address in _addresses(graphics)
        if not is_local(address)
    ]
    for tag, word in LINES.items():
        for line in root.iterfind(f"./devices/{tag}"):
            for source in line.iterfind("source[@mode='bind']"):
                address = source.get("host")
                if line.get("type") in ("tcp", "udp") and not is_local(address or ""):
                    found.append(f"{word} on {address or '0.0.0.0'}:{source.get('service')}")  # noqa: S104
    return list(dict.fromkeys(found))


def check(domains: Mapping[str, Sequence[str]]) -> Check:
    """The finding for a host: ``domains`` are what ``exposed`` said, by name."""
    open_ones = [f"{name} ({', '.join(what)})" for name, what in sorted(domains.items()) if what]
    if not open_ones:
        return Check(key=KEY, result="pass")
    more = f" … +{len(open_ones) - NAMED}" if len(open_ones) > NAMED else ""
    return Check(key=KEY, result="fail", params={"machines": ", ".join(open_ones[:NAMED]) + more})


def is_local(address: str) -> bool:
    """Whether nobody outside of the host reaches this address. Names and nothing count as open."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _ports(graphics: etree._Element) -> Iterator[str]:
    for name in ("port", "tlsPort", "websocket"):
        port = graphics.get(name)
        if port and port != "-1":
            yield port


def _addresses(graphics: etree._Element) -> list[str]:
    """The attribute repeats the first ``<listen>``; without either, libvirt's default is used,
    which the live XML writes out. A port without an address would be open."""
    listens = graphics.findall("listen")
    if not listens:
        return [graphics.get("listen") or "?"]
    kinds = ("address", "network")
    return [listen.get("address") or "?" for listen in listens if listen.get("type") in kinds]
