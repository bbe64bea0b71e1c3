"""``vms.ports.publisher`` on real sockets: bytes there and back, bounds, and closed at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from django.db import DatabaseError

from accounts.models import User
from hosts.models import Network
from vms.models import VM, PublishedPort
from vms.ports import publisher as publishing
from vms.ports import requests
from vms.ports.publisher import Publisher
from vms.ports.targets import Direct, NoWay

pytestmark = pytest.mark.django_db(transaction=True)
DEADLINE_S = 20.0
Body = Callable[["Site"], Coroutine[Any, Any, None]]


class Site:
    """A publisher that looks when told to, and a service that stands for the guest's."""

    def __init__(self, port: PublishedPort) -> None:
        self.port = port
        self.publisher = Publisher(self._open)
        self.fails = ""
        self.service_port = 0
        self.served: list[asyncio.StreamWriter] = []

    async def _open(self, _vm: VM, guest_port: int) -> Direct:
        assert guest_port == self.port.guest_port
        if self.fails:
            raise NoWay(self.fails)
        return Direct(*await asyncio.open_connection("127.0.0.1", self.service_port))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An echo that says when it has heard the end."""
        self.served.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write(b"<end>")
            writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        service = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.service_port = service.sockets[0].getsockname()[1]
        try:
            await self.publisher.look()
            yield self
        finally:
            await self.publisher._keep(())
            service.close()
            for writer in self.served:
                writer.transport.abort()

    async def come(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port.public_port)

    async def row(self) -> PublishedPort:
        return await PublishedPort.objects.aget(pk=self.port.pk)


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


async def soon(reached: Callable[[], Awaitable[bool]], what: str) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not await reached():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.02)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the site has let go of the connection, by a deadline."""
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(65536), DEADLINE_S):
            pass
    return True


@pytest.fixture
def run(
    vm: VM, owner: User, network: Network, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Body], None]:
    number = free_port()
    settings.PUBLISH_PORTS = range(number, number + 1)
    VM.objects.filter(pk=vm.pk).update(observed="running")
    Network.objects.filter(pk=network.pk).update(bridge="lo", cidr="192.168.122.0/24", active=True)
    assert vm.nics.filter(network=network.name).exists()
    port = requests.publish(VM.objects.get(pk=vm.pk), actor=owner, guest_port=22)
    assert port.public_port == number

    def go(body: Body) -> None:
        async def whole() -> None:
            async with Site(port).running() as site:
                await body(site)

        asyncio.run(whole())

    return go


def test_bytes_both_ways_and_both_ends(run: Callable[[Body], None]) -> None:
    async def body(site: Site) -> None:
        assert (await site.row()).listening
        reader, writer = await site.come()
        sent = bytes(range(256)) * 20_000  # more than all buffers between hold

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        got = await asyncio.wait_for(reader.read(-1), DEADLINE_S)
        await sending
        assert got == sent + b"<end>"
        writer.close()

    run(body)


def test_closed_at_once(run: Callable[[Body], None], vm: VM, owner: User) -> None:
    """The machine stops, goes to another team or owner, who opened it is deactivated; and the row
    goes: connections end and nobody comes in."""
    changes: list[tuple[type[Any], dict[str, Any], dict[str, Any]]] = [
        (VM, {"observed": "shutoff"}, {"observed": "running"}),
        (VM, {"binned_at": "2026-01-01T00:00Z"}, {"binned_at": None}),
        (User, {"is_active": False}, {"is_active": True}),
        (PublishedPort, {"opened_by": None}, {"opened_by": owner.pk}),
    ]

    async def body(site: Site) -> None:
        for model, change, back in changes:
            reader, writer = await site.come()
            writer.write(b"x")
            assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"x"
            rows = model.objects.filter(pk=owner.pk) if model is User else model.objects.all()
            await rows.aupdate(**change)
            await site.publisher.look()
            assert await ended(reader)
            with pytest.raises(ConnectionRefusedError):
                await site.come()
            assert not (await site.row()).listening
            await rows.aupdate(**back)
            await site.publisher.look()
            writer.close()
        reader, writer = await site.come()
        await PublishedPort.objects.all().adelete()
        await site.publisher.look()
        assert await ended(reader)
        with pytest.raises(ConnectionRefusedError):
            await site.come()
        writer.close()

    run(body)


def test_whoever_came_through_for_another_owner_goes(
    run: Callable[[Body], None], outsider: User
) -> None:
    """Given away and opened again between two looks."""

    async def body(site: Site) -> None:
        reader, writer = await site.come()
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"x"
        await VM.objects.all().aupdate(owner=outsider)
        await PublishedPort.objects.all().aupdate(opened_by=outsider)
        await site.publisher.look()
        assert await ended(reader)
        writer.close()
        reader, writer = await site.come()
        writer.write(b"y")
        assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"y"
        writer.close()

    run(body)


def test_not_more_than_so_many(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PER_PORT", 2)

    async def body(site: Site) -> None:
        lines = []
        for _ in range(2):
            reader, writer = await site.come()
            writer.write(b"x")
            assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"x"
            lines.append((reader, writer))
        reader, writer = await site.come()
        assert await ended(reader)
        writer.close()
        lines[0][1].close()
        listener = site.publisher.listeners[site.port.pk]

        async def one_has_gone() -> bool:
            return len(listener.lines) == 1

        await soon(one_has_gone, "a connection that ended is still counted")
        reader, writer = await site.come()
        writer.write(b"z")
        assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"z"
        for one in (writer, lines[1][1]):
            one.close()

    run(body)


def test_nobody_uses_it(run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(site: Site) -> None:
        reader, writer = await site.come()
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"x"
        monkeypatch.setattr(publishing, "IDLE_S", -1.0)
        await site.publisher.look()
        assert await ended(reader)
        writer.close()

    run(body)


def test_who_reads_nothing_makes_the_machine_wait(run: Callable[[Body], None]) -> None:
    async def body(site: Site) -> None:
        _reader, writer = await site.come()
        block = bytes(1 << 20)
        sent = 0
        with contextlib.suppress(asyncio.TimeoutError):
            while sent < 256:
                writer.write(block)
                await asyncio.wait_for(writer.drain(), 1.0)
                sent += 1
        assert sent < 256, "somebody keeps it all"
        writer.transport.abort()

    run(body)


def test_why_nobody_gets_through_is_written_down(run: Callable[[Body], None]) -> None:
    async def body(site: Site) -> None:
        site.fails = "port.why.silent"
        reader, writer = await site.come()
        assert await ended(reader)
        await site.publisher.look()
        assert (await site.row()).problem == "port.why.silent"
        writer.close()
        site.fails = ""
        reader, writer = await site.come()
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), DEADLINE_S) == b"x"
        await site.publisher.look()
        assert (await site.row()).problem == ""
        writer.close()

    run(body)


def test_a_port_that_another_program_has(run: Callable[[Body], None]) -> None:
    async def body(site: Site) -> None:
        await VM.objects.all().aupdate(observed="shutoff")
        await site.publisher.look()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", site.port.public_port))
            other.listen()
            await VM.objects.all().aupdate(observed="running")
            await site.publisher.look()
            row = await site.row()
            assert (row.listening, row.problem) == (False, "port.why.taken")
        await site.publisher.look()
        row = await site.row()
        assert (row.listening, row.problem) == (True, "")

    run(body)


def test_without_the_rows_all_is_closed(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise DatabaseError("gone")

    async def body(site: Site) -> None:
        reader, writer = await site.come()
        monkeypatch.setattr(publishing, "read_wanted", gone)
        await site.publisher.look()
        assert site.publisher.listeners  # a moment is no reason
        monkeypatch.setattr(publishing, "BLIND_S", -1.0)
        await site.publisher.look()
        assert not site.publisher.listeners
        assert await ended(reader)
        writer.close()

    run(body)


def test_closed_in_the_moment_in_which_the_machine_answers(run: Callable[[Body], None]) -> None:
    """``asyncio.wait_for`` before Python 3.12 loses a cancellation that comes then."""

    async def body(site: Site) -> None:
        answered = asyncio.get_running_loop().create_future()

        async def answer(_vm: VM, _guest_port: int) -> Direct:
            way = Direct(*await asyncio.open_connection("127.0.0.1", site.service_port))
            answered.set_result(None)
            return way

        site.publisher.opener = answer
        reader, writer = await site.come()
        await answered
        await asyncio.wait_for(site.publisher._keep(()), DEADLINE_S)
        assert await ended(reader)
        writer.close()

    run(body)


def test_a_network_that_is_not_here(run: Callable[[Body], None]) -> None:
    async def body(site: Site) -> None:
        await Network.objects.all().aupdate(bridge="virbr-none")
        await site.publisher.look()
        row = await site.row()
        assert (row.listening, row.problem) == (False, "port.why.elsewhere")
        with pytest.raises(ConnectionRefusedError):
            await site.come()

    run(body)
