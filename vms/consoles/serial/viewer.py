"""One console on a serial line: what waits to be sent, and how much was acknowledged.

The page acknowledges what its terminal has drawn. Of what is not acknowledged at most
``WINDOW_BYTES`` are under way; beyond ``BEHIND_BYTES`` waiting, a viewer is shown the newest and
told how much was left out. Nobody waits for anybody else.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vms.consoles.serial.hub import Hub

WINDOW_BYTES = 512 * 1024
BEHIND_BYTES = 4 << 20
KEPT_BYTES = 64 * 1024  # of the newest, when the rest is left out
FRAME_BYTES = 32 * 1024


class Viewer:
    """Filled by its hub, emptied by its own sending task; both in the event loop."""

    def __init__(self, *, mode: str, hub: Hub) -> None:
        self.mode = mode
        self.hub = hub
        self.end_reason = ""
        self._waiting: deque[bytes | str] = deque()
        self._waiting_bytes = 0
        self._unacknowledged = 0
        self._wake = asyncio.Event()

    # --- the hub's side -----------------------------------------------------------------------

    def offer(self, data: bytes) -> None:
        """Bytes of the line. The object is shared by all viewers: nothing is copied here."""
        for start in range(0, len(data), FRAME_BYTES):
            whole = start == 0 and len(data) <= FRAME_BYTES
            frame = data if whole else data[start : start + FRAME_BYTES]
            self._waiting.append(frame)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > BEHIND_BYTES:
            self._skip()
        self._wake.set()

    def tell(self, **message: Any) -> None:
        """A message beside the bytes, in its place among them."""
        self._waiting.append(json.dumps(message))
        self._wake.set()

    def set_mode(self, mode: str) -> None:
        """Control has moved: what this viewer types is let through, or not any more."""
        if mode != self.mode:
            self.mode = mode
            self.tell(type="mode", mode=mode)

    def end(self, reason: str) -> None:
        """The last thing that this viewer hears. The first reason stays."""
        if not self.end_reason:
            self.end_reason = reason
            self.tell(type="end", reason=reason)

    # --- the socket's side --------------------------------------------------------------------

    async def next(self) -> bytes | str | None:
        """What to send now. None: it has ended."""
        while True:
            if self._waiting and self._may_send(self._waiting[0]):
                return self._take()
            if self.end_reason and not self._waiting:
                return None
            self._wake.clear()
            await self._wake.wait()

    def acknowledge(self, size: int) -> None:
        """ValueError: more than was sent."""
        if not 0 <= size <= self._unacknowledged:
            raise ValueError(size)
        self._unacknowledged -= size
        self._wake.set()

    def close(self) -> None:
        """It goes; the hub forgets it."""
        self.hub.leave(self)

    # --- private ------------------------------------------------------------------------------

    def _may_send(self, item: bytes | str) -> bool:
        """What waits at the end is bounded, and nobody is asked to acknowledge it any more."""
        open_window = self._unacknowledged < WINDOW_BYTES
        return open_window or bool(self.end_reason) or isinstance(item, str)

    def _take(self) -> bytes | str:
        item = self._waiting.popleft()
        if isinstance(item, bytes):
            self._waiting_bytes -= len(item)
            self._unacknowledged += len(item)
        return item

    def _skip(self) -> None:
        """Leave out the oldest bytes that wait; messages stay, behind the note."""
        skipped = 0
        told: list[str] = []
        kept: deque[bytes | str] = deque()
        for item in self._waiting:
            if isinstance(item, str):
                told.append(item)
            elif self._waiting_bytes - skipped > KEPT_BYTES:
                skipped += len(item)
            else:
                kept.append(item)
        kept.extendleft(reversed([*told, json.dumps({"type": "skipped", "bytes": skipped})]))
        self._waiting = kept
        self._waiting_bytes -= skipped
