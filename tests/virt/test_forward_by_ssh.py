"""Streams through an SSH connection: an SSH server of the test's own, a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh
import pytest

from hosts.virt import ssh, sshforward
from hosts.virt.errors import HostUnreachable, Unsupported
from tests.virt.test_build_uris import HOST_KEY

SOON_S = 5


class Door(asyncssh.SSHServer):
    """Lets one key in, and forwards to unix sockets as long as it is told so."""

    def __init__(self, there: Host) -> None:
        self.there = there

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.there.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        self.there.users.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.export_public_key() == self.there.allowed

    def unix_connection_requested(self, dest_path: str) -> bool:
        if not self.there.forwards:  # as OpenSSH says it
            raise asyncssh.ChannelOpenError(sshforward.REFUSED, "open failed")
        return True


@dataclass
class Host:
    way: sshforward.Way
    allowed: bytes
    display: str
    forwards: bool = True
    users: list[str] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    took: int = 0  # bytes that its display could write


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    ours, theirs = (
        asyncssh.generate_private_key("ssh-ed25519"),
        asyncssh.generate_private_key("ssh-ed25519"),
    )
    directory = tmp_path / "ssh"
    directory.mkdir()
    ours.write_private_key(ssh.identity(directory))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    found = Host(
        way=sshforward.Way(
            address="127.0.0.1",
            port=port,
            username="keeper",
            ssh_host_key=theirs.export_public_key().decode(),
            directory=directory,
        ),
        allowed=ours.export_public_key(),
        display=str(tmp_path / "vnc.sock"),
    )

    async def show(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says hello, echoes; "flood" makes it write without end."""
        writer.write(b"RFB 003.008\n")
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while data == b"flood":
                    writer.write(bytes(65536))
                    await writer.drain()
                    found.took += 65536
                writer.write(data)
                await writer.drain()
        writer.close()

    displays = await asyncio.start_unix_server(show, found.display)
    server = await asyncssh.listen(
        "127.0.0.1", port, server_factory=lambda: Door(found), server_host_keys=[theirs]
    )
    yield found
    sshforward.close_all()
    displays.close()
    server.close()


async def taken(stream: sshforward.Stream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = await asyncio.wait_for(stream.read(65536), SOON_S)
        assert some, "it ended"
        data += some
    return data


async def test_bytes_flow_both_ways_and_streams_share_a_connection(host: Host) -> None:
    one = await sshforward.open_unix(host.way, host.display)
    two = await sshforward.open_unix(host.way, host.display)
    for stream in (one, two):
        assert await taken(stream, 12) == b"RFB 003.008\n"
    sent = bytes(range(256)) * 1024
    writing = asyncio.ensure_future(one.write(sent))
    assert await taken(one, len(sent)) == sent
    await writing
    assert host.users == ["keeper"]
    assert len(host.connections) == 1
    one.close()
    one.close()
    await two.write(b"still here")
    assert await taken(two, 10) == b"still here"
    two.close()


async def test_a_host_with_another_key_is_not_spoken_to(host: Host) -> None:
    with pytest.raises(HostUnreachable):
        await sshforward.open_unix(replace(host.way, ssh_host_key=HOST_KEY), host.display)
    assert host.users == []


async def test_a_host_that_does_not_know_our_key(host: Host) -> None:
    host.allowed = b"another"
    with pytest.raises(HostUnreachable):
        await sshforward.open_unix(host.way, host.display)


async def test_nobody_answers(host: Host) -> None:
    with pytest.raises(HostUnreachable):
        await sshforward.open_unix(replace(host.way, port=1), host.display)


async def test_a_host_that_does_not_forward(host: Host) -> None:
    host.forwards = False
    with pytest.raises(Unsupported, match="forbidden"):
        await sshforward.open_unix(host.way, host.display)
    host.forwards = True
    with pytest.raises(Unsupported, match="not opened"):
        await sshforward.open_unix(host.way, host.display + ".gone")
    with pytest.raises(Unsupported):
        await sshforward.open_unix(host.way, "relative.sock")


async def test_a_lost_connection_is_told_and_made_anew(host: Host) -> None:
    stream = await sshforward.open_unix(host.way, host.display)
    await taken(stream, 12)
    host.connections[0].abort()
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(stream.read(100), SOON_S) == b""
    stream.close()
    again = await sshforward.open_unix(host.way, host.display)
    assert await taken(again, 12) == b"RFB 003.008\n"
    assert len(host.connections) == 2
    again.close()


async def test_an_unused_connection_is_closed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshforward, "IDLE_S", 0.01)
    stream = await sshforward.open_unix(host.way, host.display)
    stream.close()
    await asyncio.wait_for(host.connections[0].wait_closed(), SOON_S)


async def test_a_reader_that_stalls_stops_the_display_and_nobody_else(host: Host) -> None:
    stalled = await sshforward.open_unix(host.way, host.display)
    await stalled.write(b"flood")
    before = -1
    while host.took != before:  # until it cannot write any more
        before = host.took
        await asyncio.sleep(0.2)
    assert host.took < 4 << 20, f"{host.took >> 10} KiB were taken for one that reads nothing"
    other = await sshforward.open_unix(host.way, host.display)
    assert await taken(other, 12) == b"RFB 003.008\n"
    for stream in (stalled, other):
        stream.close()
