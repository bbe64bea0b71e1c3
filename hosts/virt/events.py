"""One host's event feed, from libvirt. For the watcher.

Callbacks come in the event loop's thread, which all hosts share: they make a small object and hand
it to the subscribers, who only enqueue. Nothing here calls libvirt from that thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import eventloop
from hosts.virt.channels import ChannelWatch
from hosts.virt.connection import Connection
from hosts.virt.errors import Unsupported
from hosts.virt.spec import ConnectionClosed, DomainEvent, HostEvent, NetworkEvent

log = logging.getLogger("kvmweb.virt")

# virDomainEventType; index = its number.
LIFECYCLE = (
    "defined",
    "undefined",
    "started",
    "suspended",
    "resumed",
    "stopped",
    "shutdown",
    "pmsuspended",
    "crashed",
)
NETWORK_LIFECYCLE = ("defined", "undefined", "started", "stopped")
AGENT_STATES = {
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED: "connected",
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED: "disconnected",
}
TRAY_CHANGES = {
    libvirt.VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN: "open",
    libvirt.VIR_DOMAIN_EVENT_TRAY_CHANGE_CLOSE: "close",
}


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else "unknown"


# Event id -> (our kind, the detail made of the callback's own arguments). Each has one wildcard
# callback on the connection: libvirt refuses a second one.
Detail = Callable[..., str]
DOMAIN_EVENTS: dict[int, tuple[str, Detail]] = {
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: (
        "lifecycle",
        lambda event, _detail: _word(LIFECYCLE, event),
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: ("reboot", lambda: ""),
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: (
        "agent",
        lambda state, _reason: AGENT_STATES.get(state, "unknown"),
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: (
        "tray",
        lambda _device, reason: TRAY_CHANGES.get(reason, "unknown"),
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: ("device", lambda _device: "added"),
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: ("device", lambda _device: "removed"),
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: ("metadata", lambda _kind, _uri: ""),
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE: ("balloon", lambda _actual_kib: ""),
    libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: ("watchdog", lambda _action: ""),
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: (
        "io_error",
        lambda _path, _device, _action, reason: str(reason or ""),
    ),
    libvirt.VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE: (
        "memory_failure",
        lambda _recipient, _action, _flags: "",
    ),
}


class LibvirtEventSource:
    """On a connection of its own. Ends with the connection: after ``ConnectionClosed`` close it
    and make a new one."""

    def __init__(self, uri: str) -> None:
        self._connection = Connection(uri)
        self._callbacks: list[Callable[[HostEvent], None]] = []
        self._lock = threading.Lock()
        self._conn: Any = None
        self._domain_handles: list[int] = []
        self._network_handles: list[int] = []
        self._channels = ChannelWatch(self._connection, self._deliver)
        self._connection.on_close(self._closed)

    def subscribe(self, callback: Callable[[HostEvent], None]) -> None:
        """The first one connects and registers. HostUnreachable; Unsupported in a process that
        has no event loop of its own (see ``hosts.virt.eventloop``)."""
        with self._lock:
            self._callbacks.append(callback)
            if self._conn is not None:
                return
            if not eventloop.ensure_running():
                raise Unsupported("events need a process whose parent had no libvirt")
            self._conn = self._connection.call(self._register)

    def watch_channel(self, uuid: UUID, channel: str) -> None:
        self._channels.watch(uuid, channel)

    def unwatch_channel(self, uuid: UUID, channel: str) -> None:
        self._channels.unwatch(uuid, channel)

    def close(self) -> None:
        with self._lock:
            self._callbacks.clear()
            self._conn = None
        self._channels.close()
        self._connection.close()

    # --- private ------------------------------------------------------------------------------

    def _register(self, conn: Any) -> Any:
        for event_id, (kind, detail) in DOMAIN_EVENTS.items():
            self._register_domain_event(conn, event_id, kind, detail)
        conn.networkEventRegisterAny(
            None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, self._network_event, None
        )
        return conn

    def _register_domain_event(self, conn: Any, event_id: int, kind: str, detail: Detail) -> None:
        def callback(_conn: Any, dom: Any, *arguments: Any) -> None:
            # The last argument is the opaque one.
            self._domain_event(kind, dom, detail(*arguments[:-1]))

        try:
            conn.domainEventRegisterAny(None, event_id, callback, None)
        except libvirt.libvirtError as error:
            # An older libvirt, or the test driver, has fewer events. Lifecycle all have.
            optional = event_id != libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            if not optional or error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
                raise
            log.info("this libvirt has no event %s", kind)

    def _domain_event(self, kind: str, dom: Any, detail: str) -> None:
        uuid = UUID(bytes=dom.UUID())
        if kind == "lifecycle" and detail in ("started", "resumed"):
            self._channels.domain_started(uuid)
        self._deliver(DomainEvent(kind=kind, uuid=uuid, name=dom.name(), detail=detail))

    def _network_event(
        self, _conn: Any, network: Any, event: int, _detail: int, _opaque: object
    ) -> None:
        self._deliver(NetworkEvent(network=network.name(), detail=_word(NETWORK_LIFECYCLE, event)))

    def _closed(self, reason: str) -> None:
        self._deliver(ConnectionClosed(reason=reason))

    def _deliver(self, event: HostEvent) -> None:
        for callback in list(self._callbacks):
            callback(event)
