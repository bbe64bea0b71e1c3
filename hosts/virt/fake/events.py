"""The fake's event feed. Events are delivered in the thread that caused them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from hosts.virt.errors import HostUnreachable
from hosts.virt.spec import ChannelData, HostEvent

if TYPE_CHECKING:
    from hosts.virt.fake.state import FakeState


class FakeEventSource:
    def __init__(self, fake: FakeState) -> None:
        self._fake = fake
        self._callbacks: list[Callable[[HostEvent], None]] = []
        self._lock = threading.Lock()
        self.watched: set[tuple[UUID, str]] = set()

    def subscribe(self, callback: Callable[[HostEvent], None]) -> None:
        """HostUnreachable when the fake is unplugged."""
        if self._fake._unplugged:
            raise HostUnreachable("unplugged")
        with self._lock:
            self._callbacks.append(callback)
        if self not in self._fake._sources:
            self._fake._sources.append(self)

    def deliver(self, event: HostEvent) -> None:
        for callback in list(self._callbacks):
            callback(event)

    def watch_channel(self, uuid: UUID, channel: str) -> None:
        self.watched.add((uuid, channel))
        unread = self._fake._unread.pop((uuid, channel), b"")
        if unread:
            self.deliver(ChannelData(uuid=uuid, channel=channel, data=unread))

    def unwatch_channel(self, uuid: UUID, channel: str) -> None:
        self.watched.discard((uuid, channel))

    def close(self) -> None:
        with self._lock:
            self._callbacks.clear()
        if self in self._fake._sources:
            self._fake._sources.remove(self)
