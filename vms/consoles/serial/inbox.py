"""Between libvirt's thread, which must never wait, and the event loop, which takes turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading

MOST_BYTES = 1 << 20


class Inbox:
    """Keeps the newest ``MOST_BYTES`` that came since the last look, and how much it lost."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._lock = threading.Lock()
        self._data = bytearray()
        self._lost = 0
        self._ended = False
        self._signalled = False

    def receive(self, data: bytes) -> None:
        """From any thread."""
        with self._lock:
            self._data += data
            over = len(self._data) - MOST_BYTES
            if over > 0:
                del self._data[:over]
                self._lost += over
        self._signal()

    def lose(self, size: int) -> None:
        """From any thread: so many bytes were lost before they came here."""
        with self._lock:
            self._lost += size
        self._signal()

    def end(self) -> None:
        """From any thread."""
        with self._lock:
            self._ended = True
        self._signal()

    async def take(self) -> tuple[bytes, int, bool]:
        """(bytes, how many were lost before them, whether the line has ended); waits for any."""
        await self._event.wait()
        with self._lock:
            self._event.clear()
            self._signalled = False
            data, self._data = bytes(self._data), bytearray()
            lost, self._lost = self._lost, 0
            return data, lost, self._ended

    def take_now(self) -> bytes:
        """What has come so far, without waiting."""
        with self._lock:
            data, self._data = bytes(self._data), bytearray()
            return data

    def _signal(self) -> None:
        with self._lock:
            if self._signalled:
                return
            self._signalled = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._event.set)
