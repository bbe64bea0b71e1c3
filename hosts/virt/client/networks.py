"""Networks and the addresses that they have leased."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import libvirt

from hosts.virt import parse
from hosts.virt.client.base import Calls
from hosts.virt.connection import WORK_TIMEOUT_S
from hosts.virt.spec import Lease, NetworkFacts


class NetworkCalls(Calls):
    def list_networks(self) -> list[NetworkFacts]:
        return self.connection.call(
            lambda conn: [
                parse.network(
                    network.XMLDesc(0),
                    active=bool(network.isActive()),
                    autostart=bool(network.isPersistent() and network.autostart()),
                )
                for network in conn.listAllNetworks(0)
            ]
        )

    def ensure_network(self, name: str = "default") -> None:
        def ensure(conn: Any) -> None:
            network = conn.networkLookupByName(name)
            if not network.isActive():
                network.create()
            if network.isPersistent() and not network.autostart():
                network.setAutostart(1)

        self.connection.call(ensure, WORK_TIMEOUT_S)

    def leases(self, networks: Iterable[str] | None = None) -> list[Lease]:
        """Of the named networks, or of all: one call each. One that is gone or off has none."""
        wanted = None if networks is None else set(networks)

        def read(conn: Any) -> list[Lease]:
            return [
                lease
                for network in conn.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
                if wanted is None or network.name() in wanted
                for values in _leases(network)
                if (lease := parse.lease(network.name(), values)) is not None
            ]

        return self.connection.call(read)


def _leases(network: Any) -> list[dict[str, Any]]:
    try:
        return list(network.DHCPLeases())
    except libvirt.libvirtError as error:
        # A network without DHCP of libvirt's (a bridge) has no leases to tell.
        without = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT)
        if error.get_error_code() in (*without, libvirt.VIR_ERR_OPERATION_UNSUPPORTED):
            return []
        raise
