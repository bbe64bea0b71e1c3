"""Tickets that are guessed, stolen or stale; frames that are none: the same for each carrier."""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from websockets.exceptions import ConnectionClosed

from accounts.errors import Forbidden
from accounts.models import Membership, Team, User
from tests.consoles.test_both_carriers_keep_the_contract import (
    DEADLINE_S,
    Carrier,
    carrier,  # noqa: F401 - a fixture
    close_code,
    received,
    secret_for,
)
from tests.consoles.test_filter_what_viewers_send import HELLO, HELLO_PASSED, KEY, UPDATE
from vms.consoles import gate, tickets
from vms.models import VM, ConsoleTicket

pytestmark = pytest.mark.django_db(transaction=True)

GUESSES = 10_000
GUESSES_BY_SOCKET = 40
MOST_PINGS = 48 << 20
MOST_KEPT = 12 << 20  # the kernel's buffers, of both ends, among it


def refused(console: Carrier, secret: str, **how: str) -> bool:
    with console.open(secret, **how) as line:  # type: ignore[arg-type]
        return close_code(line) == gate.CLOSE_CODES["refused"] and console.displays == []


def near(secret: str) -> list[str]:
    """Guesses as good as they get: one character off, cut, longer, in another case."""
    other = "A" if secret[-1] != "A" else "B"
    return [secret[:-1] + other, secret[:-1], secret + "A", secret.swapcase(), f" {secret}"]


def test_ten_thousand_guesses(owner: User, running_vm: VM) -> None:
    right = secret_for(owner, running_vm)
    guesses = [*near(right), *(secrets.token_urlsafe(32) for _ in range(GUESSES))]
    for guess in guesses:
        with pytest.raises(Forbidden):
            tickets.redeem(guess, kind="vnc")
    assert tickets.redeem(right, kind="vnc").user == owner


def test_guesses_by_socket(carrier: Carrier, owner: User, running_vm: VM) -> None:  # noqa: F811
    right = secret_for(owner, running_vm)
    others = [secrets.token_urlsafe(32) for _ in range(GUESSES_BY_SOCKET)]
    for guess in [*near(right)[:4], *others]:
        assert refused(carrier, guess)
    with carrier.open(right) as line:
        line.send(HELLO)
        assert received(carrier.display(), len(HELLO_PASSED)) == HELLO_PASSED


def test_a_late_ticket(carrier: Carrier, owner: User, running_vm: VM) -> None:  # noqa: F811
    secret = secret_for(owner, running_vm)
    ConsoleTicket.objects.update(expires_at=timezone.now() - timedelta(milliseconds=1))
    assert refused(carrier, secret)


def test_after_access_was_taken_away(
    carrier: Carrier,  # noqa: F811
    teammate: User,
    team: Team,
    running_vm: VM,
) -> None:
    secret = secret_for(teammate, running_vm)
    Membership.objects.filter(team=team, user=teammate).delete()
    assert refused(carrier, secret)


def test_after_sign_out(
    carrier: Carrier,  # noqa: F811
    owner: User,
    running_vm: VM,
    browser: Callable[[User], Client],
) -> None:
    client = browser(owner)
    key = client.session.session_key or ""
    secret = secret_for(owner, running_vm, session_key=key)
    client.logout()
    assert refused(carrier, secret, session_key=key)


def test_by_another_user_or_another_browser(
    carrier: Carrier,  # noqa: F811
    owner: User,
    teammate: User,
    running_vm: VM,
    browser: Callable[[User], Client],
) -> None:
    """Who got hold of somebody's ticket has not got their cookie."""
    own = browser(owner).session.session_key or ""
    others = [browser(teammate).session.session_key or "", browser(owner).session.session_key or ""]
    for key in [*others, "", own[:-1]]:
        secret = secret_for(owner, running_vm, session_key=own)
        assert refused(carrier, secret, session_key=key)
    with carrier.open(secret_for(owner, running_vm, session_key=own), session_key=own) as line:
        line.send(HELLO)
        assert received(carrier.display(), len(HELLO_PASSED)) == HELLO_PASSED


def test_of_a_deleted_machine(carrier: Carrier, owner: User, running_vm: VM) -> None:  # noqa: F811
    secret = secret_for(owner, running_vm)
    VM.objects.filter(pk=running_vm.pk).update(deleted_at=timezone.now())
    assert refused(carrier, secret)


def test_of_another_kind(carrier: Carrier, owner: User, running_vm: VM) -> None:  # noqa: F811
    """A ticket for the serial line opens no screen."""
    secret = secret_for(owner, running_vm)
    ConsoleTicket.objects.update(kind="serial")
    assert refused(carrier, secret)


def test_a_ticket_shows_its_own_machine_whatever_the_path_says(
    carrier: Carrier,  # noqa: F811
    owner: User,
    running_vm: VM,
) -> None:
    """No machine is named in the address, so none can be put in another's place."""
    with carrier.open(secret_for(owner, running_vm), path="/ws/console/vnc?vm=other") as line:
        line.send(HELLO)
        assert received(carrier.display(), len(HELLO_PASSED)) == HELLO_PASSED


# --- frames (RFC 6455, section 5) ----------------------------------------------------------------
def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """As a client sends it, masked with zeros."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0x80 | 126]) + struct.pack(">H", size)
    else:
        head = bytes([first, 0x80 | 127]) + struct.pack(">Q", size)
    return head + bytes(4) + payload


FAULTS = {
    "not masked": bytes([0x82, len(KEY)]) + KEY,
    "reserved opcode": frame(3, KEY),
    "reserved control opcode": frame(0xB, KEY),
    "reserved bits": frame(2, KEY, rsv=7),
    "compressed, though nobody agreed": frame(2, KEY, rsv=4),
    "text": frame(1, KEY),
    "text that is not UTF-8": frame(1, b"\xff\xfe"),
    "a continuation of nothing": frame(0, KEY),
    "a ping of 200 bytes": frame(9, bytes(200)),
    "a ping in fragments": frame(9, b"x", fin=False),
    "a close of one byte": frame(8, b"x"),
    "a close with a reserved code": frame(8, struct.pack(">H", 1005)),
    "a frame of 2^63 - 1 bytes": b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + bytes(4),
    "a frame of 2^64 - 1 bytes": b"\x82\xff" + b"\xff" * 8 + bytes(4),
    "half a frame": frame(2, KEY)[:9],
    "noise": bytes(range(7, 255, 5)),
}


def test_frames_that_are_none_reach_nothing_and_hurt_nobody(
    carrier: Carrier,  # noqa: F811
    owner: User,
    running_vm: VM,
) -> None:
    """Nothing of a wrong frame gets to the machine, and a console beside it goes on."""
    with carrier.open(secret_for(owner, running_vm)) as beside:
        beside.send(HELLO)
        display = carrier.display()
        received(display, len(HELLO_PASSED))
        for name, wrong in FAULTS.items():
            with carrier.open(secret_for(owner, running_vm)) as line:
                line.send(HELLO)
                line.ping().wait(DEADLINE_S)
                theirs = carrier.displays[-1]
                received(theirs, len(HELLO_PASSED))
                with contextlib.suppress(OSError, ConnectionClosed):
                    line.socket.sendall(wrong)
                    line.socket.sendall(frame(2, UPDATE))
                    line.socket.shutdown(socket.SHUT_WR)
                got = received(theirs, 1 << 16)  # until the carrier lets go of the machine
                assert got in (b"", UPDATE), f"{name}: {got!r}"
            beside.send(KEY)
            assert received(display, len(KEY)) == KEY, name


def test_who_asks_for_pongs_and_reads_none_costs_little(
    carrier: Carrier,  # noqa: F811
    owner: User,
    running_vm: VM,
) -> None:
    """Or each ping would be kept as a pong, for as long as somebody likes to send them."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    head = (
        f"GET /ws/console/vnc HTTP/1.1\r\nHost: 127.0.0.1:{carrier.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: binary, ticket.{secret_for(owner, running_vm)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", carrier.port), DEADLINE_S) as raw:
        raw.sendall(head.encode())
        assert b" 101 " in raw.recv(4096)
        raw.settimeout(1.0)
        pings, sent = frame(9, bytes(125)) * 512, 0
        with contextlib.suppress(OSError):
            while sent < MOST_PINGS:
                sent += raw.send(pings)
        kept = 0
        with contextlib.suppress(OSError):
            while some := raw.recv(1 << 20):
                kept += len(some)
        assert kept < MOST_KEPT, f"{kept >> 20} MiB of pongs were kept for {sent >> 20} MiB"
