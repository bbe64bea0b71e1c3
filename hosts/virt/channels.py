"""Reading what guests write to a virtio channel (first-boot reports). Their bytes are hostile.

One thread per event source opens streams, also again after they broke; the event loop's thread
reads them. A guest that writes more than ``BUDGET_BYTES`` in one boot is not listened to until it
starts again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt.connection import Connection
from hosts.virt.errors import HostUnreachable, VirtError
from hosts.virt.spec import ChannelData

log = logging.getLogger("kvmweb.virt")

BUDGET_BYTES = 64 * 1024
READ_BYTES = 4096
RETRY_S = 3.0
NOTHING_NOW = -2  # virStreamRecv on a non-blocking stream

Key = tuple[UUID, str]
Deliver = Callable[[ChannelData], None]


@dataclass
class _Channel:
    stream: Any = None
    received: int = 0
    retry_at: float = 0.0
    broken: bool = False  # set by the event loop's thread, cleared by ours

    @property
    def flooded(self) -> bool:
        return self.received >= BUDGET_BYTES


class ChannelWatch:
    """What is wanted, and the thread that keeps it open."""

    def __init__(self, connection: Connection, deliver: Deliver) -> None:
        self._connection = connection
        self._deliver = deliver
        self._changed = threading.Condition()
        self._channels: dict[Key, _Channel] = {}
        self._dropped: list[_Channel] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    def watch(self, uuid: UUID, channel: str) -> None:
        with self._changed:
            self._channels.setdefault((uuid, channel), _Channel())
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="libvirt-channels", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def unwatch(self, uuid: UUID, channel: str) -> None:
        with self._changed:
            dropped = self._channels.pop((uuid, channel), None)
            if dropped is not None:
                self._dropped.append(dropped)
                self._changed.notify()

    def domain_started(self, uuid: UUID) -> None:
        """A new boot: try at once, with a new budget."""
        with self._changed:
            for (owner, _), channel in self._channels.items():
                if owner == uuid:
                    channel.retry_at = 0.0
                    channel.received = 0
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._dropped += self._channels.values()
            self._channels.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=1)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(self._pause_s())
                dropped, self._dropped = self._dropped, []
                closing = self._closing
                due = self._due()
            for channel in dropped:
                _shut(channel)
            for key, channel in due:
                self._reopen(key, channel)
            if closing:
                return

    def _pause_s(self) -> float | None:
        """Until the next attempt is due; None: until something changes."""
        if self._dropped or self._closing:
            return 0
        waiting = [
            channel.retry_at
            for channel in self._channels.values()
            if (channel.stream is None or channel.broken) and not channel.flooded
        ]
        flooded = any(channel.flooded and channel.stream for channel in self._channels.values())
        if flooded:
            return 0
        return max(min(waiting) - time.monotonic(), 0) if waiting else None

    def _due(self) -> list[tuple[Key, _Channel]]:
        now = time.monotonic()
        return [
            (key, channel)
            for key, channel in self._channels.items()
            if (channel.flooded and channel.stream is not None)
            or (
                not channel.flooded
                and (channel.stream is None or channel.broken)
                and channel.retry_at <= now
            )
        ]

    def _reopen(self, key: Key, channel: _Channel) -> None:
        _shut(channel)
        if channel.flooded:
            log.warning("domain %s floods its channel %s: not listened to", *key)
            return
        channel.retry_at = time.monotonic() + RETRY_S
        try:
            self._connection.call(lambda conn: self._open(conn, key, channel))
        except HostUnreachable:
            return  # the source's owner hears of it by ConnectionClosed
        except VirtError as error:
            # Off, or without such a channel: again when it starts, or a little later.
            log.debug("channel %s of %s is not open: %s", key[1], key[0], error)

    def _open(self, conn: Any, key: Key, channel: _Channel) -> None:
        uuid, name = key
        dom = conn.lookupByUUIDString(str(uuid))
        if not dom.isActive():
            return
        stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        dom.openChannel(name, stream, 0)
        channel.stream, channel.broken = stream, False
        stream.eventAddCallback(
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_HANGUP
            | libvirt.VIR_STREAM_EVENT_ERROR,
            self._readable,
            (key, channel),
        )

    # --- the event loop's thread ----------------------------------------------------------------

    def _readable(self, stream: Any, events: int, opaque: tuple[Key, _Channel]) -> None:
        key, channel = opaque
        if channel.stream is not stream or channel.broken or channel.flooded:
            return
        ended = bool(events & (libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR))
        if events & libvirt.VIR_STREAM_EVENT_READABLE:
            ended = self._read(stream, key, channel) or ended
        if ended or channel.flooded:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventUpdateCallback(0)  # or the loop would spin on the hang-up
            with self._changed:
                channel.broken = ended
                self._changed.notify()

    def _read(self, stream: Any, key: Key, channel: _Channel) -> bool:
        """Deliver what is there. True: the stream has ended."""
        while not channel.flooded:
            try:
                data = stream.recv(min(READ_BYTES, BUDGET_BYTES - channel.received))
            except libvirt.libvirtError:
                return True
            if data == NOTHING_NOW:
                return False
            if not data:
                return True
            channel.received += len(data)
            self._deliver(ChannelData(uuid=key[0], channel=key[1], data=data))
        return False


def _shut(channel: _Channel) -> None:
    stream, channel.stream = channel.stream, None
    channel.broken = False
    if stream is None:
        return
    with contextlib.suppress(libvirt.libvirtError):
        stream.eventRemoveCallback()
    with contextlib.suppress(libvirt.libvirtError):
        stream.abort()
