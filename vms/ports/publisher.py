"""Listens at the site's ports that lead to machines, and carries the bytes.

Every half second the rows say what is to be open. A port that is not any more is closed at once,
with the connections through it: its row is gone, its machine stops or is given away, who wanted it
open may not change the machine any more. Where the rows cannot be read for a while all is closed:
nobody knows then who may.

A connection holds one buffer for each direction and waits while the other side is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from redis.exceptions import RedisError

from accounts import policy, pulse
from accounts.policy import Door
from hosts.models import Network
from hosts.virt import sshforward
from vms import state
from vms.models import VM, PublishedPort
from vms.ports import rules, targets
from vms.ports.targets import Direct, End, NoWay

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
BLIND_S = 5.0  # so long the rows may not answer
PULSE_EVERY_S = 10.0
PER_PORT = 128  # connections
PER_MACHINE = 256
OPENING_OF_HOST = 4  # connections of one host's machines that are being opened at once
OPEN_S = 20.0  # at most until the machine's end is there
IDLE_S = 3600.0  # without a byte in either direction
BACKLOG = 64
CANCEL_AGAIN_S = 0.1

Opener = Callable[[VM, int], Awaitable[End]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A port that is to be open, as the rows have it."""

    pk: int
    public_port: int
    guest_port: int
    vm: VM
    opened_by_id: int | None
    no_way: str  # why nobody would get through, known before

    @property
    def key(self) -> tuple[int, int, UUID, int | None, int, int, int | None]:
        """Another key is another port: whoever came through the former has no part in it."""
        vm = self.vm
        return (
            self.public_port,
            self.guest_port,
            vm.uuid,
            vm.host_id,
            vm.owner_id,
            vm.team_id,
            self.opened_by_id,
        )


@dataclass(eq=False)
class _Line:
    """One connection."""

    task: asyncio.Task[None]
    active_at: float = field(default_factory=time.monotonic)


class Listener:
    """One port of the site."""

    def __init__(self, wanted: Wanted, publisher: Publisher) -> None:
        self.wanted = wanted
        self.problem = ""
        self.lines: set[_Line] = set()
        self._publisher = publisher
        self._server: asyncio.Server | None = None

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    async def listen(self) -> None:
        before, self.problem = self.problem, self.wanted.no_way
        if self.problem:
            return
        try:
            self._server = await asyncio.start_server(
                self._come,
                settings.PUBLISH_ADDRESS,
                self.wanted.public_port,
                limit=targets.READ_BYTES,
                backlog=BACKLOG,
            )
        except OSError as error:
            self.problem = "port.why.taken"
            if before != self.problem:  # it is tried again at each look
                log.warning("port %s: %s", self.wanted.public_port, error)

    async def close(self) -> None:
        """Nobody comes in any more, and who is in goes out."""
        if self._server is not None:
            self._server.close()
            self._server = None
        left = {line.task for line in self.lines}
        while left:
            # Once is not enough: before Python 3.12 ``asyncio.wait_for`` loses a cancellation that
            # comes together with its result (https://github.com/python/cpython/issues/86296).
            for task in left:
                task.cancel()
            _done, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)

    def end_idle(self, now: float) -> None:
        for line in self.lines:
            if now - line.active_at > IDLE_S:
                line.task.cancel()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Direct(reader, writer)
        task = asyncio.current_task()
        # It may have come before the end, and be heard of after it.
        shut = self._server is None or len(self.lines) >= PER_PORT
        if task is None or shut or self._publisher.count(self.wanted.vm.uuid) >= PER_MACHINE:
            client.abort()
            return
        line = _Line(task)
        self.lines.add(line)
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            await self._carry(client, line)
        except asyncio.CancelledError:
            client.abort()  # what waits to be sent is nobody's any more
        finally:
            self.lines.discard(line)
            client.close()

    async def _carry(self, client: Direct, line: _Line) -> None:
        try:
            async with self._publisher.turn(self.wanted.vm.host_id):
                machine = await asyncio.wait_for(
                    self._publisher.opener(self.wanted.vm, self.wanted.guest_port), OPEN_S
                )
        except (NoWay, asyncio.TimeoutError) as error:
            self.problem = error.code if isinstance(error, NoWay) else "port.why.host"
            log.info("port %s: %s", self.wanted.public_port, error)
            return
        self.problem = ""
        try:
            await _pump(client, machine, line)
        finally:
            machine.close()


class Publisher:
    """All of them. ``opener``: how a machine's port is reached."""

    def __init__(self, opener: Opener = targets.open_port) -> None:
        self.opener = opener
        self.listeners: dict[int, Listener] = {}
        self._turns: dict[int | None, asyncio.Semaphore] = {}
        self._database = ThreadPoolExecutor(1, thread_name_prefix="ports")
        self._seen_at = time.monotonic()
        self._pulse_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                await self.look()
                await asyncio.wait({stopping}, timeout=LOOK_EVERY_S)
        finally:
            stopping.cancel()
            await self._keep(())
            with contextlib.suppress(DatabaseError):
                await self._ask(_nobody_listens)
            sshforward.close_all()
            self._database.shutdown(wait=False)

    async def look(self) -> None:
        """Once: what is to be open is, and nothing else."""
        try:
            wanted = await self._ask(read_wanted)
        except DatabaseError:
            log.exception("the published ports cannot be read")
            if time.monotonic() - self._seen_at > BLIND_S:
                await self._keep(())
            return
        self._seen_at = time.monotonic()
        await self._keep(wanted)
        for listener in self.listeners.values():
            listener.end_idle(self._seen_at)
        told = {pk: (one.is_listening, one.problem) for pk, one in self.listeners.items()}
        try:
            await self._ask(lambda: write_down(told))
        except DatabaseError:
            log.exception("what the published ports do cannot be written")
        if self._seen_at - self._pulse_at > PULSE_EVERY_S:
            self._pulse_at = self._seen_at
            await self._ask(_beat)

    def count(self, uuid: UUID) -> int:
        """Connections to one machine."""
        return sum(len(one.lines) for one in self.listeners.values() if one.wanted.vm.uuid == uuid)

    def turn(self, host_id: int | None) -> asyncio.Semaphore:
        return self._turns.setdefault(host_id, asyncio.Semaphore(OPENING_OF_HOST))

    async def _keep(self, wanted: Collection[Wanted]) -> None:
        now = {one.pk: one for one in wanted}
        for pk, listener in list(self.listeners.items()):
            if pk not in now or now[pk].key != listener.wanted.key or now[pk].no_way:
                await listener.close()
                del self.listeners[pk]
        for pk, one in now.items():
            known = self.listeners.get(pk)
            if known is None:
                known = self.listeners[pk] = Listener(one, self)
            known.wanted = one
            if not known.is_listening:
                await known.listen()

    async def _ask(self, function: Callable[[], targets.T]) -> targets.T:
        asked = database_sync_to_async(function, thread_sensitive=False, executor=self._database)
        found: targets.T = await asked()
        return found


# --- the rows ------------------------------------------------------------------------------------
def read_wanted() -> list[Wanted]:
    rows = PublishedPort.objects.select_related("vm__host", "opened_by")
    rows = rows.prefetch_related("vm__nics")
    bridges = {
        (host, name): bridge
        for host, name, bridge in Network.objects.filter(active=True)
        .exclude(cidr="")
        .values_list("host", "name", "bridge")
    }
    doors: dict[int | None, Door] = {}
    found = []
    for row in rows:
        door = doors.setdefault(row.opened_by_id, policy.door(row.opened_by))
        if rules.why_closed(row, door):
            continue
        host_id = row.vm.host_id or 0
        places = {bridges.get((host_id, nic.network), "") for nic in row.vm.nics.all()}
        found.append(
            Wanted(
                pk=row.pk,
                public_port=row.public_port,
                guest_port=row.guest_port,
                vm=row.vm,
                opened_by_id=row.opened_by_id,
                no_way=targets.why_no_way(row.vm.host, places - {""}),
            )
        )
    return found


def write_down(told: dict[int, tuple[bool, str]]) -> None:
    """What pages say of them; no write when it is no news."""
    for row in PublishedPort.objects.select_related("vm"):
        listening, problem = told.get(row.pk, (False, ""))
        if (row.listening, row.problem) != (listening, problem):
            PublishedPort.objects.filter(pk=row.pk).update(listening=listening, problem=problem)
            state.announce(row.vm)


def _nobody_listens() -> None:
    PublishedPort.objects.filter(listening=True).update(listening=False)


def _beat() -> None:
    try:
        pulse.beat("ports")
    except RedisError as error:
        log.warning("no heartbeat: %s", error)


# --- the bytes -----------------------------------------------------------------------------------
async def _pump(client: End, machine: End, line: _Line) -> None:
    """Both directions, until both have ended or one broke."""
    flows = [
        asyncio.ensure_future(_flow(client, machine, line)),
        asyncio.ensure_future(_flow(machine, client, line)),
    ]
    try:
        done, _rest = await asyncio.wait(flows, return_when=asyncio.FIRST_EXCEPTION)
        for flow in done:
            with contextlib.suppress(OSError):
                flow.result()
    finally:
        for flow in flows:
            flow.cancel()
        await asyncio.wait(flows)


async def _flow(source: End, goal: End, line: _Line) -> None:
    while data := await source.read(targets.READ_BYTES):
        line.active_at = time.monotonic()
        await goal.write(data)
    goal.end()
