"""Screens on a loopback port of a host behind SSH: opened here with the boot's password, shown to
nobody when it is not that machine which takes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest

from accounts.errors import Unavailable
from hosts.models import Host
from hosts.virt import sshforward
from hosts.virt.errors import NoPassword, Unsupported
from hosts.virt.spec import DisplayPort
from vms.consoles import displaydoor, rfb, targets
from vms.consoles.hub import upstream
from vms.models import VM

SERVER_INIT = struct.pack(">HH", 8, 8) + bytes(16) + (4).to_bytes(4, "big") + b"QEMU"
PASSWORD = "boot0001"


def test_the_answer_to_a_challenge() -> None:
    challenge = bytes(range(16))
    answer = displaydoor.response(challenge, "password")
    assert len(answer) == 16
    assert answer == displaydoor.response(challenge, "password and more than eight")
    assert answer != displaydoor.response(challenge, "Password")
    # As `openssl enc -des-ecb -K 0e86ceceeef64e26 -nopad` says: the key's bits are turned round.
    assert answer.hex() == "b866924125c8eebb9debc1db61c538e2"


@dataclass
class Display:
    """A VNC server of a few lines. What it heard after ClientInit is kept."""

    password: str = PASSWORD
    securities: bytes = b"\x02"
    version: bytes = displaydoor.VERSION
    heard: bytearray = field(default_factory=bytearray)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(self.version)
            await reader.readexactly(12)
            writer.write(bytes([len(self.securities)]) + self.securities)
            chosen = await reader.readexactly(1)
            if chosen == b"\x02":
                challenge = os.urandom(16)
                writer.write(challenge)
                answer = await reader.readexactly(16)
                if answer != displaydoor.response(challenge, self.password):
                    writer.write((1).to_bytes(4, "big"))
                    return
            writer.write(bytes(4))
            assert await reader.readexactly(1) == b"\x01"  # shared
            writer.write(SERVER_INIT)
            while data := await reader.read(4096):
                self.heard += data
        writer.close()


@contextlib.asynccontextmanager
async def running(display: Display) -> AsyncIterator[Display]:
    server = await asyncio.start_server(display.serve, "127.0.0.1", 0)
    display.port = server.sockets[0].getsockname()[1]
    try:
        yield display
    finally:
        server.close()


class PlainStream:
    """Stands for a stream through SSH."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, most: int) -> bytes:
        return await self._reader.read(most)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


@dataclass
class There:
    """What the host says of the machine's screen, one answer after the other (the last stays)."""

    says: list[DisplayPort | Exception]
    asked: int = 0

    def display_port(self, _vm: object) -> DisplayPort:
        self.asked += 1
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> VM:
    """On a host behind SSH, whose screen is on a port."""

    async def open_port(_way: object, address: str, port: int) -> PlainStream:
        return PlainStream(*await asyncio.open_connection(address, port))

    monkeypatch.setattr(sshforward, "open_port", open_port)
    host = Host(name="far", transport="ssh", address="far", screens="port", ssh_host_key="-")
    return VM(uuid=uuid4(), name="bilbo", host=host)


def there_says(monkeypatch: pytest.MonkeyPatch, *says: DisplayPort | Exception) -> There:
    there = There(list(says))
    monkeypatch.setattr(targets, "_where", there.display_port)
    monkeypatch.setattr(targets, "_port", there.display_port)
    return there


def at(display: Display, **changes: object) -> DisplayPort:
    way = DisplayPort(address="127.0.0.1", port=display.port, password=PASSWORD, boot=1)
    return replace(way, **changes)  # type: ignore[arg-type]


async def look(target: targets.Target, version: bytes = displaydoor.VERSION) -> bytes:
    """A client of whoever looks: what it gets after its ClientInit."""
    client = rfb.ClientFilter(view_only=True)
    assert await target.read() == displaydoor.VERSION
    await target.write(client.feed(version))
    assert await target.read() == b"\x01\x01"  # None, and nothing else
    await target.write(client.feed(b"\x01"))
    if version == displaydoor.VERSION:
        assert await target.read() == bytes(4)
    await target.write(client.feed(b"\x00"))
    return await target.read()


async def test_the_password_stays_here(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Display()) as display:
        there_says(monkeypatch, at(display))
        for version in (displaydoor.VERSION, b"RFB 003.007\n"):
            target = await targets.open_vnc(vm)
            assert await look(target, version) == SERVER_INIT
            target.close()


async def test_the_shared_screen_takes_it_as_it_is(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Display()) as display:
        there_says(monkeypatch, at(display))
        target, client = await targets.open_vnc(vm), upstream.DisplayClient()
        while not client.name:
            if answer := client.feed(await target.read()):
                await target.write(answer)
        assert client.name == "QEMU"
        target.close()


async def test_all_of_a_handshake_at_once(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Display()) as display:
        there_says(monkeypatch, at(display))
        target = await targets.open_vnc(vm)
        update = b"\x03" + bytes(9)
        await target.write(displaydoor.VERSION + b"\x01" + b"\x01" + update)
        said = b""
        while not said.endswith(SERVER_INIT):
            said += await target.read()
        assert said == displaydoor.VERSION + b"\x01\x01" + bytes(4) + SERVER_INIT
        while bytes(display.heard) != update:
            await asyncio.sleep(0)
        target.close()


async def test_through_another_process_too(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The carrier beside the site gets a descriptor: there, too, nothing is asked."""
    async with running(Display()) as display:
        there_says(monkeypatch, at(display))
        target = await targets.open_vnc(vm)
        theirs = targets.SocketTarget(socket.socket(fileno=os.dup(target.fileno())))
        assert await look(theirs) == SERVER_INIT
        theirs.close()
        target.close()


@pytest.mark.parametrize(
    "other",
    [
        Display(password="another1"),  # the next machine on the port
        Display(securities=b"\x01"),  # one that asks for nothing
        Display(securities=b""),
        Display(version=b"RFB 003.003\n"),
        Display(version=b"SSH-2.0-Open"),
    ],
    ids=["password", "none", "refused", "old", "other"],
)
async def test_another_on_its_port_is_not_shown(
    vm: VM, monkeypatch: pytest.MonkeyPatch, other: Display
) -> None:
    async with running(other):
        there = there_says(monkeypatch, at(other))
        with pytest.raises(Unavailable) as refused:
            await targets.open_vnc(vm)
        assert refused.value.code == "console.wrong_screen"
        assert there.asked == targets.SIGN_IN_TRIES + 1
        assert not other.heard


async def test_the_same_password_on_the_next_machine(
    vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An admin may give all machines one password: then the boot tells."""
    async with running(Display()) as other:
        boots = [at(other, boot=number) for number in range(1, 9)]
        there_says(monkeypatch, *boots)
        with pytest.raises(Unavailable) as refused:
            await targets.open_vnc(vm)
        assert refused.value.code == "console.wrong_screen"
        assert not other.heard


async def test_a_new_password_in_between(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of the site open it at once, and one sets another password."""
    async with running(Display(password="newest12")) as display:
        there_says(monkeypatch, at(display), at(display, password="newest12"))
        target = await targets.open_vnc(vm)
        assert await look(target) == SERVER_INIT
        target.close()


@pytest.mark.parametrize(
    ("said", "screens", "code"),
    [
        (NoPassword("none"), "port", "console.no_password"),
        (Unsupported("no port"), "port", "console.next_start"),
        (Unsupported("no port"), "socket", "console.ssh"),
    ],
)
async def test_it_says_what_to_do(
    vm: VM, monkeypatch: pytest.MonkeyPatch, said: Exception, screens: str, code: str
) -> None:
    assert vm.host is not None
    vm.host.screens = screens
    there_says(monkeypatch, said)
    with pytest.raises(Unavailable) as refused:
        await targets.open_vnc(vm)
    assert refused.value.code == code


def test_the_password_is_in_no_log_of_it() -> None:
    assert PASSWORD not in repr(DisplayPort(address="127.0.0.1", port=1, password=PASSWORD, boot=1))
