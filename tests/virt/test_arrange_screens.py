"""Where a stored screen listens, and the password of a running one."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from lxml import etree

from hosts.virt import exposure
from hosts.virt.xml import screens

SOCKET = "<graphics type='vnc' sharePolicy='force-shared'><listen type='socket'/></graphics>"
PORT = "<graphics type='vnc' port='-1' autoport='yes'{}><listen type='address' {}/></graphics>"
LOOPBACK = "address='127.0.0.1'"
LIVE = (
    "<graphics type='vnc' port='5907' autoport='yes' listen='127.0.0.1'{}>"
    "<listen type='address' address='127.0.0.1'/></graphics>"
)


def domain(graphics: str) -> str:
    return f"<domain type='qemu'><name>x</name><devices>{graphics}</devices></domain>"


def graphics(text: str | None) -> etree._Element:
    assert text is not None
    found = etree.fromstring(text).find("./devices/graphics")
    assert found is not None
    return found


@pytest.mark.parametrize("stored", [SOCKET, PORT.format("", LOOPBACK)])
def test_a_port_always_asks_for_a_password(stored: str) -> None:
    arranged = screens.arranged(domain(stored), by_port=True, password="x8x8x8x8")
    vnc = graphics(arranged)
    assert dict(vnc.attrib).items() >= {
        ("passwd", "x8x8x8x8"),
        ("passwdValidTo", screens.OVER),  # nobody signs in with what is stored
        ("listen", "127.0.0.1"),
        ("autoport", "yes"),
    }
    assert [dict(listen.attrib) for listen in vnc.findall("listen")] == [
        {"type": "address", "address": "127.0.0.1"}
    ]
    assert exposure.exposed(arranged or "") == []
    assert screens.arranged(arranged or "", by_port=True, password="other") is None


def test_back_to_a_socket() -> None:
    by_port = screens.arranged(domain(SOCKET), by_port=True, password="x8x8x8x8")
    vnc = graphics(screens.arranged(by_port or "", by_port=False, password=""))
    assert dict(vnc.attrib) == {"type": "vnc", "sharePolicy": "force-shared"}
    assert [dict(listen.attrib) for listen in vnc.findall("listen")] == [{"type": "socket"}]


@pytest.mark.parametrize(
    ("stored", "by_port"),
    [
        (PORT.format(" passwd='theirs'", LOOPBACK), True),  # an admin's own password
        (PORT.format("", "address='0.0.0.0'"), True),  # the audit tells of it
        (PORT.format("", LOOPBACK), False),
        (PORT.format(" passwd='theirs' passwdValidTo='2020-01-01T00:00:00'", LOOPBACK), False),
        (SOCKET, False),
        ("", True),
        ("<graphics type='spice'/>", True),
    ],
)
def test_what_somebody_set_by_hand_stays(stored: str, by_port: bool) -> None:
    assert screens.arranged(domain(stored), by_port=by_port, password="x8x8x8x8") is None


def test_read_a_running_one() -> None:
    live = domain(LIVE.format(" passwd='s3' passwdValidTo='2026-11-23T18:00:00'"))
    found = screens.listener(live)
    assert found is not None
    assert (found.address, found.port, found.password) == ("127.0.0.1", 5907, "s3")
    assert found.valid_to == datetime(2026, 11, 23, 18, tzinfo=timezone.utc)
    assert "s3" not in repr(found)
    assert screens.listener(domain(SOCKET)) is None
    assert screens.listener(domain(LIVE.replace("127.0.0.1", "0.0.0.0").format(""))) is None
    open_one = screens.listener(domain(LIVE.format("")))
    assert open_one is not None
    assert open_one.password == ""


def test_a_new_password() -> None:
    until = datetime(2026, 11, 23, 19, tzinfo=timezone.utc)
    element = etree.fromstring(screens.with_password(domain(LIVE.format("")), "n3w", until))
    assert element.tag == "graphics"
    assert (element.get("passwd"), element.get("passwdValidTo")) == ("n3w", "2026-11-23T19:00:00")
    assert element.get("port") == "5907"  # or libvirt refuses the change
