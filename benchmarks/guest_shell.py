"""A shell in a tiny guest, on its serial line as the site carries it."""

from __future__ import annotations

import json
import re
import time
from types import TracebackType

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.stack import PASSWORD, Stack

SOON_S = 20.0
SIGN_IN_S = 180.0


class Shell:
    """A context; the first user is signed in with the stack's password."""

    def __init__(self, stack: Stack, uuid: str) -> None:
        self._stack = stack
        self._uuid = uuid
        self._line: ClientConnection
        self._shown = b""

    def __enter__(self) -> Shell:
        ticket = self._stack.api("POST", f"/vms/{self._uuid}/console", {"kind": "serial"})
        self._line = connect(ticket["url"], subprotocols=ticket["protocols"], compression=None)
        self._sign_in()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._line.close()

    def run(self, command: str, *, timeout_s: float) -> None:
        """Until it has ended well; RuntimeError when it has not by then."""
        # The line echoes what is typed: the answer must not stand in it.
        self._type(f"{command} && echo its end is $((40 + 2))\r")
        if not self._until(rb"its end is 42", timeout_s):
            raise RuntimeError(f"{command}: {self._shown[-500:]!r}")

    def _sign_in(self) -> None:
        """getty forgets what is typed while it starts: then it is asked for a new prompt."""
        end = time.monotonic() + SIGN_IN_S
        while time.monotonic() < end:
            self._type("\r")
            if not self._until(rb"(login: ?|\$ ?)(\x1b\[6n)?$", SOON_S):
                continue
            if b"login" not in self._shown[-20:]:
                return
            self._type("tiny\r")
            if not self._until(rb"Password: ?$", SOON_S):
                continue
            self._type(f"{PASSWORD}\r")
            if self._until(rb"\$ ?(\x1b\[6n)?$", SOON_S):
                return
        raise RuntimeError(f"no shell: {self._shown[-500:]!r}")

    def _type(self, text: str) -> None:
        self._shown = b""
        self._line.send(text.encode())

    def _until(self, pattern: bytes, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self._shown):
            try:
                frame = self._line.recv(timeout=max(0.0, end - time.monotonic()))
            except (TimeoutError, ConnectionClosed):
                return False
            if isinstance(frame, bytes):
                self._shown += frame
                self._line.send(json.dumps({"type": "ack", "bytes": len(frame)}))
        return True
