"""Where a console's bytes come from: a connected stream to the machine's display.

A host whose libvirt socket is on this machine gives an already connected descriptor
(``virDomainOpenGraphicsFD``); a host behind SSH is reached through an SSH connection, to the
display's unix socket there or, where that cannot be reached, to a loopback port with a password of
this boot. Never by a port alone: a port is used again by the next machine. A host connected by TLS
has no way for a display: libvirt's protocol carries none, and a port on the network is what we
refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from channels.db import database_sync_to_async

from accounts.errors import Conflict, Unavailable
from hosts import connections
from hosts.models import Host
from hosts.virt.errors import NoPassword, Unsupported, VirtError
from hosts.virt.spec import DisplayPort
from vms.consoles.displaydoor import Greeting, NotTheDisplay, sign_in
from vms.models import VM

if TYPE_CHECKING:
    from hosts.virt.sshforward import Stream

log = logging.getLogger(__name__)

READ_BYTES = 65536
SIGN_IN_TIMEOUT_S = 8.0
# Another process of the site may set a new password between our asking for it and its use.
SIGN_IN_TRIES = 3


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


class SignedInTarget(StreamTarget):
    """A display whose password was told to it here: whoever looks is asked for none."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._greeting = Greeting()
        self._said = asyncio.Event()
        self._said.set()

    async def read(self) -> bytes:
        while not self._greeting.over or self._greeting.answer:
            await self._said.wait()
            self._said.clear()
            if self._greeting.answer:
                answer = bytes(self._greeting.answer)
                self._greeting.answer.clear()
                return answer
        return await super().read()

    async def write(self, data: bytes) -> None:
        passed = self._greeting.feed(data)
        self._said.set()
        if passed:
            await super().write(passed)


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

    host = vm.host
    assert host is not None  # noqa: S101 - told by the caller
    try:
        way = await _in_thread(_where)(vm)
        if isinstance(way, DisplayPort):
            return await _open_port(vm, host, way)
        return StreamTarget(await sshforward.open_unix(connections.ssh_way(host), way))
    except Unsupported as error:
        log.warning("display of %s (%s): %s", vm.uuid, error.ref, error.raw)
        raise Unavailable(
            _why_not(host, error), name=vm.name, host=host.name, ref=error.ref
        ) from error
    except VirtError as error:
        log.warning("display of %s (%s): %s", vm.uuid, error.ref, error.raw)
        raise Unavailable("console.target", name=vm.name, ref=error.ref) from error


async def _open_port(vm: VM, host: Host, way: DisplayPort) -> Target:
    """HostUnreachable, Unsupported and whatever asking the host again says."""
    from hosts.virt import sshforward

    refused = ""
    for _ in range(SIGN_IN_TRIES):
        stream = await sshforward.open_port(connections.ssh_way(host), way.address, way.port)
        target = SignedInTarget(stream)
        try:
            await asyncio.wait_for(sign_in(stream, way.password), SIGN_IN_TIMEOUT_S)
            again = await _in_thread(_port)(vm)
        except (NotTheDisplay, OSError, asyncio.TimeoutError) as error:
            target.close()
            refused = str(error) or type(error).__name__
            way = await _in_thread(_port)(vm)
            continue
        except BaseException:
            target.close()
            raise
        # Still the same boot on the same port: so it was this machine that took the password,
        # even where an admin gave several machines the same one.
        if (again.boot, again.port) == (way.boot, way.port):
            return target
        target.close()
        refused, way = "the machine was started anew meanwhile", again
    ref = secrets.token_hex(4)
    log.warning("display of %s (%s): port %s: %s", vm.uuid, ref, way.port, refused)
    raise Unavailable("console.wrong_screen", name=vm.name, host=host.name, ref=ref)


def _why_not(host: Host, error: Unsupported) -> str:
    if isinstance(error, NoPassword):
        return "console.no_password"
    return "console.next_start" if host.screens == Host.Screens.PORT else "console.ssh"


def _where(vm: VM) -> str | DisplayPort:
    """The unix socket or the port on its host where the machine shows its screen now. Blocks.
    VirtError."""
    assert vm.host is not None  # noqa: S101 - told by the caller
    return connections.hypervisor(vm.host).domain(vm.uuid).vnc_socket or _port(vm)


def _port(vm: VM) -> DisplayPort:
    assert vm.host is not None  # noqa: S101 - told by the caller
    return connections.hypervisor(vm.host).display_port(vm.uuid)


T = TypeVar("T")


def _in_thread(function: Callable[[VM], T]) -> Callable[[VM], Awaitable[T]]:
    return database_sync_to_async(function, thread_sensitive=False)


_OPENERS: dict[Host.Transport, Callable[[VM], Awaitable[Target]]] = {
    Host.Transport.LOCAL: _open_descriptor,
    Host.Transport.UNIX: _open_descriptor,
    Host.Transport.SSH: _open_by_ssh,
}
