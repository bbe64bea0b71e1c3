"""Clients of both carriers that were not written to show a screen."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from accounts.models import User
from tests.consoles.test_both_carriers_keep_the_contract import (
    DEADLINE_S,
    Carrier,
    answers,
    carrier,  # noqa: F401 - a fixture
    close_code,
    free_port,
    received,
    run_websockify,
    secret_for,
    wait_for,
)
from tests.consoles.test_filter_what_viewers_send import HELLO, HELLO_PASSED, UPDATE
from vms.consoles import carrier_asgi, gate, targets
from vms.models import VM

pytestmark = pytest.mark.django_db(transaction=True)
TINY = b"\x02\x00\x00\x00"  # SetEncodings without one: the smallest message
MIB = 1 << 20
SHORT_S = 1


def test_a_flood_of_tiny_messages_keeps_nobody_waiting() -> None:
    """One frame of 1 MiB holds 262,144 messages; parsing them took a second of everybody's."""

    class Target:
        async def write(self, data: bytes) -> None:
            """A machine that reads at once."""

    frames = iter([HELLO, TINY * (MIB // len(TINY))])

    async def receive() -> dict[str, Any]:
        data = next(frames, None)
        if data is None:
            return {"type": "websocket.disconnect"}
        return {"type": "websocket.receive", "bytes": data}

    async def others_turns() -> int:
        console: Any = SimpleNamespace(
            grant=SimpleNamespace(mode="view"), target=Target(), bytes_in=0, active_at=0.0
        )
        turns = 0
        flood = asyncio.ensure_future(carrier_asgi._to_server(console, receive))
        while not flood.done():
            await asyncio.sleep(0)
            turns += 1
        assert flood.result() == "client"
        return turns

    assert asyncio.run(others_turns()) > 100


def test_text_is_not_rfb(carrier: Carrier, owner: User, vm: VM) -> None:  # noqa: F811
    with carrier.open(secret_for(owner, vm)) as console:
        console.send("RFB 003.008\n")
        assert close_code(console) in (gate.CLOSE_CODES["protocol"], 1003, 1006)


def test_fragments_without_end_are_refused(
    carrier: Carrier,  # noqa: F811
    owner: User,
    vm: VM,
) -> None:
    """A message may come in frames; one that never ends may not be kept for ever."""
    with carrier.open(secret_for(owner, vm)) as console:
        console.send(HELLO)
        received(carrier.display(), len(HELLO_PASSED))
        sent = 0
        try:
            for opcode in [2, *[0] * 64]:
                _send_fragment(console, opcode, bytes(MIB))
                sent += 1
        except (ConnectionClosed, OSError):
            pass
        assert sent < 60 or close_code(console), "64 MiB of one message were taken"


def _send_fragment(console: ClientConnection, opcode: int, payload: bytes) -> None:
    """A frame without FIN, masked with zeros."""
    head = bytes([opcode, 0x80 | 127]) + struct.pack(">Q", len(payload)) + bytes(4)
    console.socket.settimeout(DEADLINE_S)
    console.socket.sendall(head + payload)


def test_a_host_that_is_not_ours_is_refused(
    carrier: Carrier,  # noqa: F811
    owner: User,
    vm: VM,
) -> None:
    """A name that somebody points at this site has an Origin that equals its Host."""
    secret = secret_for(owner, vm)
    with socket.create_connection(("127.0.0.1", carrier.port), DEADLINE_S) as raw:
        raw.sendall(
            b"GET /ws/console/vnc HTTP/1.1\r\nHost: evil.test\r\nOrigin: http://evil.test\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: binary, ticket." + secret.encode() + b"\r\n\r\n"
        )
        said = b""
        raw.settimeout(DEADLINE_S)
        while chunk := raw.recv(4096):
            said += chunk
    assert struct.pack(">H", gate.CLOSE_CODES["refused"]) in said
    assert carrier.displays == []


def test_only_this_account_may_ask_the_broker(tmp_path: Path) -> None:
    with run_websockify(free_port(), tmp_path):
        assert (tmp_path / "broker.sock").stat().st_mode & 0o077 == 0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Carrier]:
    """websockify, with a second for the handshake."""
    code = (
        f"import sys; from vms.consoles import websockify_server as s; "
        f"s.HANDSHAKE_S = {SHORT_S}; s.main()"
    )
    python = tmp_path / "python"
    # It is called as "python -m vms.consoles.websockify_server ...".
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o700)
    console = Carrier("websockify", free_port())

    def open_display(_: VM) -> socket.socket:
        ours, theirs = socket.socketpair()
        console.displays.append(theirs)
        theirs.settimeout(DEADLINE_S)
        return ours

    monkeypatch.setattr(targets, "open_vnc_socket", open_display)
    monkeypatch.setattr(sys, "executable", str(python))
    with run_websockify(console.port, tmp_path):
        wait_for(lambda: answers(console.port), "the carrier does not listen")
        yield console
        for display in console.displays:
            display.close()


def test_a_handshake_that_drips_is_ended(hasty: Carrier) -> None:
    """Each connection costs a process; a timeout for each read would let it drip for ever."""
    with socket.create_connection(("127.0.0.1", hasty.port), DEADLINE_S) as raw:
        raw.settimeout(0.2)
        end = time.monotonic() + DEADLINE_S
        ended = False
        while not ended:
            assert time.monotonic() < end, "it still listens to a request line without end"
            try:
                raw.sendall(b"G")
                ended = raw.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True


def test_a_console_outlives_the_time_for_its_handshake(hasty: Carrier, owner: User, vm: VM) -> None:
    with hasty.open(secret_for(owner, vm)) as console:
        console.send(HELLO)
        display = hasty.display()
        received(display, len(HELLO_PASSED))
        end = time.monotonic() + 2 * SHORT_S
        while time.monotonic() < end:
            console.send(UPDATE)
            assert received(display, len(UPDATE)) == UPDATE
            threading.Event().wait(0.05)
