"""The Hypervisor that is libvirt. One object per process and host; every method may be called
from several threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hosts.virt.client.agent import AgentCalls
from hosts.virt.client.host import HostCalls
from hosts.virt.client.media import MediaCalls
from hosts.virt.client.moves import MoveCalls
from hosts.virt.client.networks import NetworkCalls
from hosts.virt.connection import Connection

if TYPE_CHECKING:
    from hosts.virt.protocol import EventSource, Hypervisor


class LibvirtHypervisor(MoveCalls, AgentCalls, MediaCalls, NetworkCalls, HostCalls):
    """``uri`` comes from ``hosts.virt.uri.build``. Connects at the first call."""

    def __init__(self, uri: str) -> None:
        super().__init__(Connection(uri))

    def events(self) -> EventSource:
        """This host's feed, on a connection of its own."""
        from hosts.virt.events import LibvirtEventSource

        return LibvirtEventSource(self.connection.uri)


def _conforms(hypervisor: LibvirtHypervisor) -> Hypervisor:
    """For the type checker: the class fulfils the protocol."""
    return hypervisor
