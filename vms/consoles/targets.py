"""Where a console's bytes come from: a connected stream to the machine's display.

A host whose libvirt socket is on this machine gives an already connected descriptor
(``virDomainOpenGraphicsFD``); a host behind SSH is reached through an SSH connection, to the
display's unix socket there. Never by a port: a port is used again by the next machine. A host
connected by TLS has no way for a display: libvirt's protocol carries none, and a port on the
network is what we refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from channels.db import database_sync_to_async

from accounts.errors import Conflict, Unavailable
from hosts import connections
from hosts.models import Host
from hosts.virt.errors import Unsupported, VirtError
from vms.models import VM

if TYPE_CHECKING:
    from hosts.virt.sshforward import Stream

log = logging.getLogger(__name__)

READ_BYTES = 65536


class TargetEnded(Exception):  # noqa: N818 - an end, not an error
    """The stream is over for another reason than that the machine stopped: a close reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Target(Protocol):
    """A byte stream to a display. ``read`` returns nothing at its end; OSError when it broke."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def fileno(self) -> int:
        """A descriptor to hand to another process, which then reads and writes in our place."""
        ...

    def close(self) -> None: ...


class SocketTarget:
    """A connected socket, pumped by the event loop without a thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self._sock, READ_BYTES)

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def open_vnc_socket(vm: VM) -> socket.socket:
    """A connected socket to the machine's VNC server. Blocks for some ms. Unavailable."""
    if vm.host is None:
        raise Unavailable("console.target", name=vm.name, ref="")
    try:
        return socket.socket(fileno=connections.hypervisor(vm.host).open_graphics_fd(vm.uuid))
    except VirtError as error:
        raise Unavailable("console.target", name=vm.name, ref=error.ref) from error


class StreamTarget:
    """A stream through the host's SSH connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._bridge: _Bridge | None = None

    async def read(self) -> bytes:
        return await self._stream.read(READ_BYTES)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    def fileno(self) -> int:
        if self._bridge is None:
            self._bridge = _Bridge(self)
        return self._bridge.theirs.fileno()

    def close(self) -> None:
        if self._bridge is not None:
            self._bridge.close()
        self._stream.close()


class _Bridge:
    """A pair of sockets, and what is carried between one of them and a stream of this process."""

    def __init__(self, stream: StreamTarget) -> None:
        ours, self.theirs = socket.socketpair()
        self._carrying = asyncio.ensure_future(_carry(stream, SocketTarget(ours)))

    def close(self) -> None:
        self._carrying.cancel()
        self.theirs.close()


async def _carry(one: Target, other: SocketTarget) -> None:
    """Both ways, until either ends; ``other`` is closed then."""
    pours = {asyncio.ensure_future(_pour(one, other)), asyncio.ensure_future(_pour(other, one))}
    try:
        await asyncio.wait(pours, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pour in pours:
            pour.cancel()
        await asyncio.gather(*pours, return_exceptions=True)
        other.close()


async def _pour(source: Target, drain: Target) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read():
            await drain.write(data)


def check(host: Host | None) -> None:
    """Conflict where no display of this host can ever be reached: trying again is no use."""
    if host is not None and host.transport not in _OPENERS:
        raise Conflict("console.tls", host=host.name)


async def open_vnc(vm: VM) -> Target:
    """The machine's display, on whatever host it is now. Unavailable when it cannot be reached."""
    if vm.host is None:
        raise Unavailable("console.target", name=vm.name, ref="")
    opener = _OPENERS.get(Host.Transport(vm.host.transport))
    if opener is None:
        raise Unavailable("console.tls", host=vm.host.name)
    return await opener(vm)


async def _open_descriptor(vm: VM) -> Target:
    sock = await database_sync_to_async(open_vnc_socket, thread_sensitive=False)(vm)
    return SocketTarget(sock)


async def _open_by_ssh(vm: VM) -> Target:
    from hosts.virt import sshforward  # asyncssh takes 15 MiB, and not every site has such hosts

    assert vm.host is not None  # noqa: S101 - told by the caller
    path = await database_sync_to_async(display_path, thread_sensitive=False)(vm)
    try:
        stream = await sshforward.open_unix(connections.ssh_way(vm.host), path)
    except Unsupported as error:
        log.warning("display of %s (%s): %s", vm.uuid, error.ref, error.raw)
        raise Unavailable("console.ssh", name=vm.name, host=vm.host.name, ref=error.ref) from error
    except VirtError as error:
        log.warning("display of %s (%s): %s", vm.uuid, error.ref, error.raw)
        raise Unavailable("console.target", name=vm.name, ref=error.ref) from error
    return StreamTarget(stream)


def display_path(vm: VM) -> str:
    """The unix socket on its host where the machine shows its screen now. Blocks. Unavailable."""
    if vm.host is None:
        raise Unavailable("console.target", name=vm.name, ref="")
    try:
        path = connections.hypervisor(vm.host).domain(vm.uuid).vnc_socket
    except VirtError as error:
        raise Unavailable("console.target", name=vm.name, ref=error.ref) from error
    if not path:  # it is off, or has no screen
        raise Unavailable("console.target", name=vm.name, ref="")
    return path


_OPENERS: dict[Host.Transport, Callable[[VM], Awaitable[Target]]] = {
    Host.Transport.LOCAL: _open_descriptor,
    Host.Transport.UNIX: _open_descriptor,
    Host.Transport.SSH: _open_by_ssh,
}
