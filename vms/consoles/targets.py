"""Where a console's bytes come from: a connected socket to the machine's display.

A host whose libvirt socket is on this machine gives an already connected descriptor
(``virDomainOpenGraphicsFD``); a host behind SSH is reached through its SSH connection, to the
display's unix socket there. Never by a port: a port is used again by the next machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from channels.db import database_sync_to_async

from accounts.errors import Unavailable
from hosts import connections
from hosts.models import Host
from hosts.virt.errors import VirtError
from vms.models import VM

READ_BYTES = 65536


class Target(Protocol):
    """A byte stream to a display."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
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


async def open_vnc(vm: VM) -> Target:
    """The machine's display, on whatever host it is now. Unavailable when it cannot be reached."""
    if vm.host is None:
        raise Unavailable("console.target", name=vm.name, ref="")
    opener = _OPENERS.get(vm.host.transport)
    if opener is None:
        raise Unavailable("console.transport", host=vm.host.name)
    return await opener(vm)


async def _open_descriptor(vm: VM) -> Target:
    sock = await database_sync_to_async(open_vnc_socket, thread_sensitive=False)(vm)
    return SocketTarget(sock)


_OPENERS: dict[str, Callable[[VM], Awaitable[Target]]] = {
    Host.Transport.LOCAL: _open_descriptor,
    Host.Transport.UNIX: _open_descriptor,
}
