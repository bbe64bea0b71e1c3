"""The machine's end of a published port: found anew for each connection, and made sure of.

A guest must not choose where the site connects to. So the address is what the host's own DHCP has
leased to the MAC of the machine's card on a network of libvirt's, within that network; never what
the guest or its agent says. And before a byte flows the neighbour table of whoever connects (this
machine, or the host behind SSH) must have that address at that MAC: so it is neither this machine,
nor the host, nor another machine, whatever was leased before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from channels.db import database_sync_to_async

from hosts import connections
from hosts.models import Host, Network
from hosts.virt import sshforward
from hosts.virt.errors import HostUnreachable, Unsupported, VirtError
from vms.models import VM

if TYPE_CHECKING:
    from hosts.virt.spec import Lease

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT_S = 8.0
READ_BYTES = 65536
SO_BINDTODEVICE = 25  # asm-generic/socket.h; the socket module names it on newer Pythons only
COMPLETE = 0x2  # ATF_COM of a neighbour, linux/if_arp.h
ARP = Path("/proc/net/arp")
# A host that hangs holds some of them, for as long as a call may last.
_threads = ThreadPoolExecutor(16, thread_name_prefix="port-target")


class NoWay(Exception):  # noqa: N818 - says what it is
    """The machine cannot be reached now; ``code`` says why."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code} {detail}".strip())
        self.code = code


class End(Protocol):
    """One end of a connection. ``read`` returns nothing at its end; OSError when it broke."""

    async def read(self, most: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def end(self) -> None:
        """No more is written."""

    def close(self) -> None: ...


class Direct:
    """An end that is a socket of this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, most: int) -> bytes:
        return await self._reader.read(most)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the machine is, as its host tells."""

    address: str
    mac: str
    bridge: str  # of its network, on the host


async def open_port(vm: VM, guest_port: int) -> End:
    """A stream to the machine's port. NoWay."""
    host = vm.host
    if host is None or host.transport == Host.Transport.TLS:
        raise NoWay("port.why.tls")
    try:
        place = await _in_thread(lambda: find(vm))
        if host.transport == Host.Transport.SSH:
            return await _by_ssh(host, place, guest_port)
        return await _direct(place, guest_port)
    except NoWay:
        raise
    except sshforward.Forbidden as error:
        raise NoWay("port.why.forwarding", str(error)) from error
    except HostUnreachable as error:
        raise NoWay("port.why.host", str(error)) from error
    except Unsupported as error:
        raise NoWay("port.why.silent", str(error)) from error
    except VirtError as error:
        raise NoWay("port.why.host", str(error)) from error
    except (OSError, asyncio.TimeoutError) as error:
        raise NoWay("port.why.silent", str(error)) from error


def find(vm: VM) -> Place:
    """Asks the host. NoWay, VirtError."""
    assert vm.host is not None  # noqa: S101 - the caller has looked
    nics = list(vm.nics.filter(link_up=True))
    rows = Network.objects.filter(
        host=vm.host, active=True, name__in=[nic.network for nic in nics]
    ).exclude(cidr="")
    networks = {row.name: row for row in rows}
    if not networks:
        raise NoWay("port.why.no_network")
    leases = connections.hypervisor(vm.host).leases(networks)
    for nic in nics:
        network = networks.get(nic.network)
        if network is None:
            continue
        address = leased(leases, network.name, nic.mac.lower(), network.cidr)
        if address:
            return Place(address=address, mac=nic.mac.lower(), bridge=network.bridge)
    raise NoWay("port.why.no_address")


def leased(leases: Iterable[Lease], network: str, mac: str, cidr: str) -> str:
    """The IPv4 address that this MAC has there, and nobody else has; "": none."""
    whole = ip_network(cidr)
    if not isinstance(whole, IPv4Network):
        return ""
    of_network = [lease for lease in leases if lease.network == network]
    mine = [lease for lease in of_network if lease.mac == mac]
    for lease in sorted(mine, key=lambda lease: lease.expires_at or 0, reverse=True):
        address = ip_address(lease.address)
        inside = address in whole and address not in (
            whole.network_address,
            whole.broadcast_address,
        )
        odd = address.is_loopback or address.is_link_local or address.is_multicast
        shared = any(other.address == lease.address and other.mac != mac for other in of_network)
        if inside and not odd and not shared:
            return str(address)
    return ""


def why_no_way(host: Host | None, bridges: Iterable[str]) -> str:
    """What can be told before anybody connects: the code, or "" where there may be a way. Of the
    network namespace that this process is in."""
    if host is None or host.transport == Host.Transport.TLS:
        return "port.why.tls"
    if not bridges:
        return "port.why.no_network"
    if host.transport != Host.Transport.SSH:
        here = {name for _number, name in socket.if_nameindex()}
        if here.isdisjoint(bridges):
            return "port.why.elsewhere"
    return ""


# --- the two ways --------------------------------------------------------------------------------
async def _direct(place: Place, guest_port: int) -> End:
    """From this machine, through the network's bridge and nothing else."""
    line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        line.settimeout(0)
        try:
            line.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, place.bridge.encode() + b"\0")
        except PermissionError:
            pass  # Linux before 5.7 wants a capability; the neighbour is looked at in any case
        except OSError as error:
            raise NoWay("port.why.elsewhere", place.bridge) from error
        loop = asyncio.get_running_loop()
        where = (place.address, guest_port)
        await asyncio.wait_for(loop.sock_connect(line, where), CONNECT_TIMEOUT_S)
        if not is_neighbour(place, ARP.read_text()):
            raise NoWay("port.why.not_its_own", place.address)
        reader, writer = await asyncio.open_connection(sock=line, limit=READ_BYTES)
    except BaseException:
        line.close()
        raise
    return Direct(reader, writer)


def is_neighbour(place: Place, table: str) -> bool:
    """``table``: address, type, flags, MAC, mask, device, below a head (proc(5))."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) != 6:
            continue
        address, _kind, flags, mac, _mask, device = words
        if address == place.address and int(flags, 16) & COMPLETE:
            return (mac.lower(), device) == (place.mac, place.bridge)
    return False


async def _by_ssh(host: Host, place: Place, guest_port: int) -> End:
    way = connections.ssh_way(host)
    stream = await sshforward.open_guest(way, place.address, guest_port)
    try:
        if not is_neighbour(place, await sshforward.neighbours(way)):
            raise NoWay("port.why.not_its_own", place.address)
    except BaseException:
        stream.close()
        raise
    return stream


async def _in_thread(function: Callable[[], T]) -> T:
    asked = database_sync_to_async(function, thread_sensitive=False, executor=_threads)
    found: T = await asked()
    return found
