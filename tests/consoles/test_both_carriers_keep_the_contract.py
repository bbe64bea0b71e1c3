"""The same tests for each carrier: the one inside the site and websockify beside it.

The server and the client are real (uvicorn, websockify, a WebSocket client that nobody here
wrote); the machine's display is one end of a socket pair. Real displays: tests/lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from django.conf import settings
from django.utils import timezone
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockify.websocket import WebSocket as WebsockifyClient
from websockify.websocket import WebSocketWantReadError

from accounts.models import Membership, Team, User
from tests.consoles.test_filter_what_viewers_send import HELLO, HELLO_PASSED, KEY, UPDATE
from vms.consoles import (
    carrier_asgi,
    carrier_websockify,
    gate,
    pings,
    sessions,
    targets,
    tickets,
)
from vms.models import VM, ConsoleSession

pytestmark = pytest.mark.django_db(transaction=True)
DEADLINE_S = 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        threading.Event().wait(0.02)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Carrier:
    name: str
    port: int
    displays: list[socket.socket] = field(default_factory=list)  # the machine's end of each
    greeting: bytes = b""  # what a display says before it is asked

    def display(self) -> socket.socket:
        """The machine's end of the first console."""
        wait_for(lambda: bool(self.displays), "no display was opened")
        return self.displays[0]

    def open(
        self,
        secret: str,
        *,
        origin: str | None = "own",
        path: str = "/ws/console/vnc",
        session_key: str = "",
    ) -> ClientConnection:
        given = f"http://127.0.0.1:{self.port}" if origin == "own" else origin
        return connect(
            f"ws://127.0.0.1:{self.port}{path}",
            subprotocols=["binary", f"ticket.{secret}"],  # type: ignore[list-item]
            origin=given,  # type: ignore[arg-type]
            additional_headers={"Cookie": f"{settings.SESSION_COOKIE_NAME}={session_key}; a=b"},
            compression=None,
            open_timeout=DEADLINE_S,
            max_size=None,
        )


@pytest.fixture(params=["asgi", "websockify"])
def carrier(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Carrier]:
    carrier = Carrier(request.param, free_port())

    def open_display(_: VM) -> socket.socket:
        ours, theirs = socket.socketpair()
        carrier.displays.append(theirs)
        theirs.settimeout(DEADLINE_S)
        theirs.sendall(carrier.greeting)
        return ours

    monkeypatch.setattr(targets, "open_vnc_socket", open_display)
    running = run_asgi if carrier.name == "asgi" else run_websockify
    with running(carrier.port, tmp_path):
        wait_for(lambda: answers(carrier.port), "the carrier does not listen")
        yield carrier
        for display in carrier.displays:
            display.close()
        wait_for(
            lambda: not ConsoleSession.objects.filter(ended_at__isnull=True).exists(),
            "a console session was not closed",
        )


class run_asgi:  # noqa: N801 - reads as the context manager that it is
    def __init__(self, port: int, _: Path) -> None:
        config = uvicorn.Config(
            carrier_asgi.application,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=port,
            lifespan="off",
            ws_per_message_deflate=False,
            log_level="warning",
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> None:
        pings.bound()  # as kvmweb.asgi does
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)


class run_websockify:  # noqa: N801
    def __init__(self, port: int, tmp_path: Path) -> None:
        self.port, self.broker = port, tmp_path / "broker.sock"
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(carrier_websockify.serve(self.broker))
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pending = asyncio.all_tasks(self.loop)
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))

    def __enter__(self) -> None:
        self.thread.start()
        wait_for(self.broker.exists, "the broker has no socket")
        words = ["--broker", str(self.broker), "--listen", "127.0.0.1", "--port", str(self.port)]
        self.server = subprocess.Popen(
            [sys.executable, "-m", "vms.consoles.websockify_server", *words],
            cwd=settings.BASE_DIR,
        )

    def __exit__(self, *_: object) -> None:
        self.server.terminate()
        self.server.wait(DEADLINE_S)
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(DEADLINE_S)


def secret_for(user: User, vm: VM, mode: str = "", session_key: str = "") -> str:
    return tickets.issue(user=user, vm=vm, mode=mode, session_key=session_key).secret


def received(display: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = display.recv(65536)
        if not chunk:
            break
        data += chunk
    return data


def close_code(connection: ClientConnection) -> int:
    try:
        while True:
            connection.recv(timeout=DEADLINE_S)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0


def test_bytes_flow_both_ways(carrier: Carrier, owner: User, running_vm: VM) -> None:
    with carrier.open(secret_for(owner, running_vm)) as console:
        assert console.subprotocol == "binary"
        console.send(HELLO + KEY)
        display = carrier.display()
        assert received(display, len(HELLO_PASSED + KEY)) == HELLO_PASSED + KEY
        sent = bytes(range(256)) * 4096  # 1 MiB
        threading.Thread(target=display.sendall, args=(sent,)).start()
        got = b""
        while len(got) < len(sent):
            got += console.recv(timeout=DEADLINE_S)  # type: ignore[operator]
        assert got == sent
    wait_for(lambda: ConsoleSession.objects.get().ended_at is not None, "not closed")
    row = ConsoleSession.objects.get()
    assert (row.user, row.mode, row.carrier, row.end_reason) == (
        owner,
        "control",
        carrier.name,
        "client",
    )


def test_websockifys_own_client_is_carried(carrier: Carrier, owner: User, running_vm: VM) -> None:
    client = WebsockifyClient()
    at = f"ws://127.0.0.1:{carrier.port}/ws/console/vnc"
    client.connect(at, protocols=["binary", f"ticket.{secret_for(owner, running_vm)}"])
    client.socket.settimeout(DEADLINE_S)
    client.sendmsg(HELLO + KEY)
    display = carrier.display()
    assert received(display, len(HELLO_PASSED + KEY)) == HELLO_PASSED + KEY
    sent = bytes(range(256)) * 4096  # 1 MiB
    threading.Thread(target=display.sendall, args=(sent,)).start()
    got = b""
    while len(got) < len(sent):
        with contextlib.suppress(WebSocketWantReadError):
            got += client.recvmsg()
    assert got == sent
    client.close()


def test_a_viewers_keys_do_not_arrive(carrier: Carrier, viewer: User, running_vm: VM) -> None:
    if carrier.name == "asgi":
        carrier.greeting = SCREEN  # whom the site itself carries share its connection
    with carrier.open(secret_for(viewer, running_vm)) as console:
        console.send(HELLO + KEY + UPDATE)
        display = carrier.display()
        if carrier.name == "websockify":
            assert received(display, len(HELLO_PASSED + UPDATE)) == HELLO_PASSED + UPDATE
            return
        got = b""
        while not got.endswith(BLACK):
            got += console.recv(timeout=DEADLINE_S)  # type: ignore[operator]
        console.send(KEY * 100 + UPDATE)
        asked = received(display, len(OUR_HELLO) + 2 * len(UPDATE))
        assert asked[: len(OUR_HELLO)] == OUR_HELLO
        assert {asked[at] for at in range(len(OUR_HELLO), len(asked), len(UPDATE))} == {3}


# A display of 16 x 16 that has said all it will say: its greeting, and one black picture.
SCREEN = (
    b"RFB 003.008\n\x01\x01" + bytes(4) + b"\0\x10\0\x10" + bytes(16) + b"\0\0\0\0"
    b"\0\0\0\x01\0\0\0\0\0\x10\0\x10\0\0\0\0" + bytes(16 * 16 * 4)
)
BLACK = bytes(16 * 16 * 4)  # Raw, as UPDATE's client names no encodings
# What the site says to it: version, no password, shared, pixels, encodings.
OUR_HELLO = (
    b"RFB 003.008\n\x01\x01\0\0\0\0\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0"
    b"\x02\0\0\x05\0\0\0\0\xff\xff\xff\x11\xff\xff\xff\x21\xff\xff\xfe\xcc\xff\xff\xff\x20"
)


def test_a_ticket_opens_once(carrier: Carrier, owner: User, running_vm: VM) -> None:
    secret = secret_for(owner, running_vm)
    with carrier.open(secret):
        carrier.display()
        with carrier.open(secret) as again:
            assert close_code(again) == gate.CLOSE_CODES["refused"]
    assert len(carrier.displays) == 1


@pytest.mark.parametrize("origin", ["http://evil.test", None])
def test_another_origin_is_refused(
    carrier: Carrier,
    owner: User,
    running_vm: VM,
    browser: Callable[..., object],
    origin: str | None,
) -> None:
    key = browser(owner).session.session_key  # type: ignore[attr-defined]
    secret = secret_for(owner, running_vm, session_key=key)
    with carrier.open(secret, origin=origin, session_key=key) as console:
        assert close_code(console) == gate.CLOSE_CODES["refused"]
    assert carrier.displays == []


def test_no_ticket_no_console(carrier: Carrier) -> None:
    with carrier.open("guess") as console:
        assert close_code(console) == gate.CLOSE_CODES["refused"]


def test_it_says_when_the_machine_stopped(carrier: Carrier, owner: User, running_vm: VM) -> None:
    with carrier.open(secret_for(owner, running_vm)) as console:
        carrier.display().close()
        assert close_code(console) == gate.CLOSE_CODES["stopped"]


def test_garbage_ends_it(carrier: Carrier, owner: User, running_vm: VM) -> None:
    with carrier.open(secret_for(owner, running_vm)) as console:
        console.send(b"GET / HTTP/1.0\r\n\r\n")
        assert close_code(console) == gate.CLOSE_CODES["protocol"]


def test_revoked_access_ends_it_at_once(
    carrier: Carrier,
    teammate: User,
    team: Team,
    running_vm: VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without Redis in this test the re-check does it; with Redis it is told (tests/lab)."""
    monkeypatch.setattr(sessions, "RECHECK_S", 0.2)
    with carrier.open(secret_for(teammate, running_vm)) as console:
        console.send(HELLO)
        received(carrier.display(), len(HELLO_PASSED))
        Membership.objects.filter(team=team, user=teammate).delete()
        assert close_code(console) == gate.CLOSE_CODES["revoked"]


def test_an_idle_console_is_closed(
    carrier: Carrier, owner: User, running_vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RECHECK_S", 0.2)
    monkeypatch.setattr(settings, "CONSOLE_IDLE_TIMEOUT_S", 0)
    with carrier.open(secret_for(owner, running_vm)) as console:
        assert close_code(console) == gate.CLOSE_CODES["idle"]


def test_too_many_are_refused(carrier: Carrier, owner: User, running_vm: VM) -> None:
    ConsoleSession.objects.bulk_create(
        ConsoleSession(user=owner, vm=running_vm, kind="vnc", mode="view", carrier="asgi")
        for _ in range(sessions.PER_USER)
    )
    with carrier.open(secret_for(owner, running_vm)) as console:
        assert close_code(console) == gate.CLOSE_CODES["too_many"]
    ConsoleSession.objects.update(ended_at=timezone.now())


def test_a_stalled_viewer_costs_little(carrier: Carrier, owner: User, running_vm: VM) -> None:
    """A client that does not read stops the machine's side; nothing is kept for it without end."""
    with carrier.open(secret_for(owner, running_vm)):
        display = carrier.display()
        display.settimeout(1.0)
        taken, chunk = 0, bytes(1 << 16)
        try:
            while taken < 256 << 20:
                taken += display.send(chunk)
        except TimeoutError:
            pass
        assert taken < 32 << 20, f"{taken >> 20} MiB were taken for a client that reads nothing"
