"""Byte streams to unix sockets, loopback ports and guests of a host behind SSH, without a thread
and without a port of our own.

libvirt's own ``qemu+ssh`` carries no display. Here one SSH connection for each host and event loop
carries them all (``direct-streamlocal@openssh.com``, ``direct-tcpip``): pinned to the same host
key, signed in with the same key as libvirt's (``hosts.virt.ssh``), opened when first needed and
closed when nobody has used it for a while.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from hosts.virt import ssh, uri
from hosts.virt.errors import HostUnreachable, Unsupported
from hosts.virt.exposure import is_local
from hosts.virt.parse import usable_address

# What a stream may hold for a reader that does not read, here and under way.
WINDOW_BYTES = 1 << 20
PACKET_BYTES = 32768  # the most that OpenSSH takes
IDLE_S = 60.0  # an unused connection is kept so long
REFUSED = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
DISCARD_PORT = 9

Place = str | tuple[str, int]  # a unix socket's path, or an address and port


class Forbidden(Unsupported):
    """The host's sshd says that it forwards no such thing. For sockets OpenSSH does not tell."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a host is reached; the fields are those that ``uri.build`` takes for ``ssh``."""

    address: str
    port: int | None
    username: str
    ssh_host_key: str
    directory: Path = field(default_factory=uri.default_ssh_directory)


class Stream:
    """One place on the host. Waits while the other side is slow; OSError when it broke."""

    def __init__(
        self,
        line: _Line,
        reader: asyncssh.SSHReader[bytes],
        writer: asyncssh.SSHWriter[bytes],
    ) -> None:
        self._line, self._reader, self._writer = line, reader, writer
        self._open = True

    async def read(self, most: int) -> bytes:
        """Some bytes; none at its end."""
        try:
            return await self._reader.read(most)
        except asyncssh.Error as error:
            raise ConnectionResetError(str(error)) from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except asyncssh.Error as error:
            raise ConnectionResetError(str(error)) from error

    def end(self) -> None:
        """No more is written; what comes from there is still read."""
        if self._open:
            self._writer.write_eof()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._writer.close()
            self._line.give_back()


class _Line:
    """The SSH connection to one host, in one event loop."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._lock = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._streams = 0
        self._closing: asyncio.TimerHandle | None = None

    async def open(self, place: Place) -> Stream:
        connection, is_new = await self._connected()
        try:
            return await self._stream(connection, place)
        except (asyncssh.ConnectionLost, asyncssh.DisconnectError) as error:
            if is_new:
                raise HostUnreachable(str(error)) from error
        connection, _ = await self._connected()  # it was lost while nobody used it
        try:
            return await self._stream(connection, place)
        except (asyncssh.ConnectionLost, asyncssh.DisconnectError) as error:
            raise HostUnreachable(str(error)) from error

    async def run(self, command: str) -> str:
        """What it says. HostUnreachable, Forbidden."""
        connection, _ = await self._connected()
        try:
            done = await asyncio.wait_for(
                connection.run(command, stdin=asyncssh.DEVNULL, check=True), ssh.CONNECT_TIMEOUT_S
            )
        except asyncio.TimeoutError as error:
            raise HostUnreachable(f"{command}: no end within {ssh.CONNECT_TIMEOUT_S} s") from error
        except (asyncssh.ProcessError, asyncssh.ChannelOpenError) as error:
            raise Forbidden(f"{command}: {error}") from error
        except asyncssh.Error as error:
            raise HostUnreachable(str(error)) from error
        return str(done.stdout)

    def give_back(self) -> None:
        self._streams -= 1
        if self._streams == 0:
            self._closing = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connected(self) -> tuple[asyncssh.SSHClientConnection, bool]:
        """The connection, and whether it was made just now."""
        async with self._lock:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection, False
            self._connection = await _connect(self._way)
            return self._connection, True

    async def _stream(self, connection: asyncssh.SSHClientConnection, place: Place) -> Stream:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._streams += 1
        try:
            reader, writer = await asyncio.wait_for(
                _open_stream(connection, place), ssh.CONNECT_TIMEOUT_S
            )
        except BaseException as error:
            self.give_back()
            if isinstance(error, asyncio.TimeoutError):
                raise HostUnreachable("no answer to a request for a stream") from error
            if isinstance(error, asyncssh.ChannelOpenError):
                if error.code == REFUSED:
                    raise Forbidden(f"{place}: forbidden by its sshd: {error.reason}") from error
                raise Unsupported(f"{place}: not opened: {error.reason}") from error
            raise
        return Stream(self, reader, writer)


async def _open_stream(
    connection: asyncssh.SSHClientConnection, place: Place
) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
    if isinstance(place, str):
        return await connection.open_unix_connection(
            place, encoding=None, window=WINDOW_BYTES, max_pktsize=PACKET_BYTES
        )
    return await connection.open_connection(
        *place, encoding=None, window=WINDOW_BYTES, max_pktsize=PACKET_BYTES
    )


_lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Way, _Line]] = (
    weakref.WeakKeyDictionary()
)


async def open_unix(way: Way, path: str) -> Stream:
    """A stream to the unix socket ``path`` on that host, as its user there.

    HostUnreachable: no connection, or not the pinned host. Unsupported: the host's sshd does not
    forward to sockets, or that user may not open this one, or nobody listens at it.
    """
    if not path.startswith("/"):
        raise Unsupported(f"not a socket's path: {path!r}")
    return await _line(way).open(path)


async def open_port(way: Way, address: str, port: int) -> Stream:
    """A stream to a loopback port on that host. Whose screen answers there the caller must find
    out: a port is used again by the next machine. Errors as ``open_unix``."""
    if not is_local(address):
        raise Unsupported(f"not a loopback address: {address!r}")
    return await _line(way).open((address, port))


async def open_guest(way: Way, address: str, port: int) -> Stream:
    """A stream to a guest of that host, at an address that the host has leased to it: never the
    host's own loopback. Whether it is that guest the caller must find out. Errors as
    ``open_unix``."""
    if usable_address(address) != address:
        raise Unsupported(f"not a guest's address: {address!r}")
    return await _line(way).open((address, port))


async def neighbours(way: Way) -> str:
    """The host's table of neighbours, as ``/proc/net/arp`` has it (proc(5)); libvirt's own reading
    of it fails on some versions ("wrong nlmsg len"). HostUnreachable, Forbidden."""
    return await _line(way).run("cat /proc/net/arp")


@dataclass(frozen=True, kw_only=True)
class Forwards:
    """What a host's sshd lets our account reach there."""

    is_root: bool
    sockets: bool
    ports: bool


async def probe(way: Way) -> Forwards:
    """For an event loop of its own: what it opens is closed. HostUnreachable.

    OpenSSH answers alike for a socket that it does not forward to and for one that the account may
    not open: so libvirt's own is tried, which every account that uses libvirt may open."""
    try:
        sockets = [await _opens(way, path) for path in LIBVIRT_SOCKETS]
        return Forwards(
            is_root=(way.username or _this_user()) == "root",
            sockets=any(sockets),
            ports=await _forwards_ports(way),
        )
    finally:
        close_all()


async def _opens(way: Way, path: str) -> bool:
    try:
        (await open_unix(way, path)).close()
    except Unsupported:
        return False
    return True


async def _forwards_ports(way: Way) -> bool:
    """Nobody need listen: to be refused by the port is another answer than by sshd."""
    try:
        (await open_port(way, "127.0.0.1", DISCARD_PORT)).close()
    except Forbidden:
        return False
    except Unsupported:
        return True
    return True


def _line(way: Way) -> _Line:
    return _lines.setdefault(asyncio.get_running_loop(), {}).setdefault(way, _Line(way))


def close_all() -> None:
    """Close what this event loop has open (at its end)."""
    for line in _lines.pop(asyncio.get_running_loop(), {}).values():
        line.close()


async def _connect(way: Way) -> asyncssh.SSHClientConnection:
    address, port = uri.checked_address(way.address), uri.checked_port(way.port)
    user = uri.checked_username(way.username) if way.username else _this_user()
    known = ssh.known_hosts(address, port or ssh.DEFAULT_PORT, way.ssh_host_key)
    key = ssh.identity(way.directory)
    connecting = asyncssh.connect(
        address,
        port or ssh.DEFAULT_PORT,
        username=user,
        known_hosts=known.encode(),
        config=None,  # nobody's ~/.ssh/config
        # As OpenSSH does for libvirt: our key, or the account's own where we have none.
        client_keys=[str(key)] if key.exists() else (),
        agent_path=None,
        preferred_auth="publickey",
        keepalive_interval=ssh.ALIVE_INTERVAL_S,
        keepalive_count_max=ssh.ALIVE_COUNT,
    )
    try:
        return await asyncio.wait_for(connecting, ssh.CONNECT_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise HostUnreachable(f"no SSH within {ssh.CONNECT_TIMEOUT_S} s") from error
    except (OSError, asyncssh.Error, asyncssh.KeyImportError) as error:
        raise HostUnreachable(f"SSH: {error}") from error


def _this_user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
