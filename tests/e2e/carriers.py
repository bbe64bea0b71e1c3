"""Both console carriers behind one origin each, and a client that sends what it likes."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import BrowserContext
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.lab.conftest import ROOT
from tests.stack import Stack

START_TIMEOUT_S = 60
SHIFT = 0xFFE1
BELL = 2
# Of the registry of RFB's community (rfbproto), "ExtendedDesktopSize".
EXTENDED_DESKTOP_SIZE = -308
ASKED_HERE = 1
ENTER = 0xFF0D


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def websockify(stack: Stack) -> Iterator[str]:
    """The carrier beside the site; its origin's address."""
    origin, console = free_port(), free_port()
    log = (stack.var / "log" / "console.log").open("ab")
    commands = (
        ["manage.py", "websockify", f"--port={console}"],
        ["-m", "tests.e2e.one_origin", str(origin), str(stack.port), str(console)],
    )
    running = [
        subprocess.Popen(
            [sys.executable, *argv],
            cwd=ROOT,
            env=stack.env | {"KVMWEB_CONSOLE_CARRIER": "websockify"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        for argv in commands
    ]
    try:
        stack.wait(
            lambda: _listens(console) and _listens(origin),
            "the carrier listens",
            timeout_s=START_TIMEOUT_S,
        )
        yield f"http://127.0.0.1:{origin}"
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(START_TIMEOUT_S)
        log.close()


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What ``POST /vms/{uuid}/console`` gave to a browser's session."""

    url: str
    protocols: list[str]
    mode: str
    origin: str
    cookie: str  # the ticket is the browser's that asked for it

    @classmethod
    def ask(cls, context: BrowserContext, origin: str, uuid: str) -> Ticket:
        cookies = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
        answer = httpx.post(
            f"{origin}/api/v1/vms/{uuid}/console",
            json={"kind": "vnc"},
            cookies=cookies,
            headers={"X-CSRFToken": cookies["kvmweb_csrf"], "Origin": origin, "Referer": origin},
            timeout=30,
        )
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        path = urlsplit(found["url"]).path
        return cls(
            url=origin.replace("http", "ws", 1) + path,
            protocols=found["protocols"],
            mode=found["mode"],
            origin=origin,
            cookie=f"kvmweb_session={cookies['kvmweb_session']}",
        )

    def connect(self) -> ClientConnection:
        return connect(
            self.url,
            subprotocols=self.protocols,  # type: ignore[arg-type]
            origin=self.origin,  # type: ignore[arg-type]
            additional_headers={"Cookie": self.cookie},
            compression=None,
            max_size=None,
        )


class Rfb:
    """A client of our own: it does not know what view-only means (RFC 6143)."""

    def __init__(self, ticket: Ticket) -> None:
        self.socket = ticket.connect()
        self._pending = b""
        version = self._take(12)
        self.socket.send(version)
        (count,) = self._take(1)
        assert 1 in self._take(count), "security type None is not offered"
        self.socket.send(b"\x01")
        assert self._take(4) == b"\0\0\0\0"
        self.socket.send(b"\x00")  # ask for the screen alone; the carrier shares it anyway
        head = self._take(24)
        self._take(struct.unpack_from(">I", head, 20)[0])

    def _take(self, length: int) -> bytes:
        while len(self._pending) < length:
            data = self.socket.recv(timeout=20)
            assert isinstance(data, bytes)
            self._pending += data
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def key(self, keysym: int) -> None:
        for down in (1, 0):
            self.socket.send(struct.pack(">BBxxI", 4, down, keysym))

    def point(self, x: int, y: int, buttons: int = 0) -> None:
        self.socket.send(struct.pack(">BBHH", 5, buttons, x, y))

    def scancode(self, keysym: int, code: int) -> None:
        """A key as QEMU's clients send it."""
        for down in (1, 0):
            self.socket.send(struct.pack(">BBHII", 255, 0, down, keysym, code))

    def cut_text(self, text: str) -> None:
        data = text.encode("latin-1")
        self.socket.send(struct.pack(">BxxxI", 6, len(data)) + data)

    def wait_update(self) -> None:
        """Ask for the screen and take its beginning: what was sent before has been dealt with."""
        self.socket.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 16, 16))
        assert self._take(1)[0] == 0

    def hear_sizes(self) -> None:
        """From now on the server tells when a size is asked for and when it changes."""
        self.socket.send(struct.pack(">BxHii", 2, 2, EXTENDED_DESKTOP_SIZE, 0))

    def ask_size(self, width: int, height: int) -> None:
        screen = struct.pack(">IHHHHI", 0, 0, 0, width, height, 0)
        self.socket.send(struct.pack(">BxHHBx", 251, width, height, 1) + screen)

    def sizes(self) -> list[tuple[int, int]]:
        """(reason, status) of each size that the next update tells of. Its pictures are raw."""
        while (kind := self._take(1)[0]) == BELL:
            pass
        assert kind == 0, f"message type {kind}"
        found = []
        for _ in range(struct.unpack(">xH", self._take(3))[0]):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self._take(12))
            if encoding == EXTENDED_DESKTOP_SIZE:
                self._take(16 * self._take(4)[0])
                found.append((x, y))
            else:
                assert encoding == 0, f"encoding {encoding}"
                self._take(4 * width * height)
        return found

    def answer_to_size(self, width: int, height: int) -> int:
        """The status with which the server answers to a size that is asked for: 4 is "forwarded".
        QEMU answers at once; to a picture's request it would with its next tick."""
        self.ask_size(width, height)
        while True:
            for reason, status in self.sizes():
                if reason == ASKED_HERE:
                    return status

    def close(self) -> None:
        self.socket.close()


def close_code(ticket: Ticket) -> int:
    """The code with which a connection with this ticket is ended."""

    def read_to_the_end() -> None:
        for _ in line:
            pass
        line.recv(timeout=0)  # an iteration ends silently with some codes; this never does

    line = ticket.connect()
    with pytest.raises(ConnectionClosed) as closed:
        read_to_the_end()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code
