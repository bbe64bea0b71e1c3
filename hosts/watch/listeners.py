"""Who is told what a host said. ``vms`` registers a listener from its ``AppConfig.ready()``.

Listeners are called on the host's own thread, one call at a time for one host. They write rows;
they do not keep the thread waiting for anything else. ``hypervisor`` may be asked, on this thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from hosts.models import Host
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import ChannelData, DomainEvent, DomainFacts, Lease


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What a domain did on average over a while: a moment says little of whether it is used."""

    cpu_percent: float  # of all its vCPUs
    sent_bytes_s: float


@dataclass(frozen=True, kw_only=True)
class DomainSample:
    uuid: UUID
    cpu_percent: float | None  # of all its vCPUs, 0 to 100; None until there are two readings
    memory_used_mib: int | None
    # Over the last ACTIVITY_WINDOW_S, once at its end; None in between.
    activity: Activity | None = None


class Listener(Protocol):
    def on_sync(self, host: Host, domains: Sequence[DomainFacts], hypervisor: Hypervisor) -> None:
        """All domains of the host, from one bulk list: without metadata, disks and NICs."""
        ...

    def on_domain(
        self, host: Host, uuid: UUID, facts: DomainFacts | None, event: DomainEvent | None
    ) -> None:
        """One domain as it is now, read after ``event`` (None: after a change that a list
        showed). ``facts`` None: the host has no such domain."""
        ...

    def on_samples(self, host: Host, samples: Sequence[DomainSample]) -> None: ...
    def on_leases(self, host: Host, leases: Sequence[Lease]) -> None: ...
    def on_channel(self, host: Host, data: ChannelData) -> None: ...
    def on_reach(self, host: Host, *, up: bool) -> None: ...
    def channels_wanted(self, host: Host) -> set[tuple[UUID, str]]:
        """Virtio channels of running domains to listen on now."""
        ...

    def leases_wanted(self, host: Host) -> bool:
        """Somebody waits for an address: ask the host for its leases often."""
        ...


_listeners: list[Listener] = []


def register_listener(listener: Listener) -> None:
    if listener not in _listeners:
        _listeners.append(listener)


def listeners() -> list[Listener]:
    return list(_listeners)
