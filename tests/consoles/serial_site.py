"""The consoles of this site in a thread, a guest that is made up, and a client for its line."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.consoles.test_both_carriers_keep_the_contract import DEADLINE_S, free_port, wait_for
from vms.consoles import carrier_asgi


class SerialSite:
    """A context; ``.open(secret)`` gives a ``Terminal``. ``application``: the consoles alone, or
    the whole site."""

    def __init__(self, application: Any = carrier_asgi.application) -> None:
        self.port = free_port()
        config = uvicorn.Config(
            application,
            host="127.0.0.1",
            port=self.port,
            lifespan="off",
            ws_per_message_deflate=False,
            log_level="warning",
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> SerialSite:
        self.thread.start()
        wait_for(lambda: self.server.started, "the site does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)

    def open(self, secret: str, path: str = "/ws/console/serial") -> Terminal:
        return Terminal(
            connect(
                f"ws://127.0.0.1:{self.port}{path}",
                subprotocols=["binary", f"ticket.{secret}"],  # type: ignore[list-item]
                origin=f"http://127.0.0.1:{self.port}",  # type: ignore[arg-type]
                compression=None,
                open_timeout=DEADLINE_S,
                max_size=None,
            )
        )


class Terminal:
    """What a page does: shows bytes, acknowledges them, keeps what it was told."""

    def __init__(self, socket: ClientConnection, *, acknowledges: bool = True) -> None:
        self.socket = socket
        self.acknowledges = acknowledges
        self.shown = bytearray()
        self.told: list[dict[str, Any]] = []
        self.code = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def type(self, data: bytes) -> None:
        self.socket.send(data)

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def read(self, timeout_s: float = DEADLINE_S) -> None:
        """One frame."""
        frame = self.socket.recv(timeout=timeout_s)
        if isinstance(frame, str):
            self.told.append(json.loads(frame))
            return
        self.shown += frame
        if self.acknowledges:
            with contextlib.suppress(ConnectionClosed):  # what came before the end is still read
                self.say(type="ack", bytes=len(frame))

    def until(self, reached: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        end = time.monotonic() + timeout_s
        while not reached():
            left = end - time.monotonic()
            assert left > 0, f"{what}: {self.told} {bytes(self.shown[-300:])!r}"
            try:
                self.read(left)
            except TimeoutError:
                continue

    def until_shown(self, text: bytes, timeout_s: float = DEADLINE_S) -> None:
        self.until(lambda: text in self.shown, f"{text!r} on the line", timeout_s)

    def until_told(self, timeout_s: float = DEADLINE_S, **message: Any) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [told for told in self.told if message.items() <= told.items()]

        self.until(lambda: bool(found()), f"told {message}", timeout_s)
        return found()[-1]

    def until_closed(self) -> int:
        """The close code, after everything that came before it."""
        try:
            while True:
                self.read()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 0
