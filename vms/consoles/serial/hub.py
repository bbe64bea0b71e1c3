"""A machine's serial line, read once and shown to many.

The hub opens the line when somebody comes, and closes it some seconds after the last one has
gone, so that a ``virsh console`` finds it free. It opens it again by itself when the host's
daemon was restarted or the machine has moved; when the machine has stopped, its viewers are told
so. Everything that asks the host runs in a thread of the hub's own; nothing of it is per viewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from channels.db import database_sync_to_async

from hosts import connections
from hosts.virt.errors import (
    ConsoleInUse,
    HostUnreachable,
    NoSuchDomain,
    Unsupported,
    VirtError,
    WrongState,
)
from hosts.virt.spec import DomainState
from vms import seriallog
from vms.consoles.serial import relay, ring
from vms.consoles.serial.inbox import Inbox
from vms.consoles.serial.viewer import Viewer
from vms.models import VM

if TYPE_CHECKING:
    from hosts.models import Host
    from hosts.virt.protocol import ConsoleLine
    from hosts.virt.spec import DomainFacts

T = TypeVar("T")
log = logging.getLogger(__name__)

LINGER_S = 10.0
# What comes within this time after a piece leaves together: at full speed a viewer gets large
# frames, and everybody else on this site gets the loop; a key's echo leaves at once.
TURN_S = 0.01
RETRY_S = (0.5, 1.0, 2.0, 5.0)  # then the last one again and again
# After its domain has left this host: how long the site may take to say where it is now.
MOVING_S = 30.0
INPUT_MOST_BYTES = 64 * 1024
ROOM_WAIT_S = 3.0
WRITE_BYTES = 4096
DEFAULT_SIZE = (80, 24)  # columns, rows: what a guest takes a serial terminal for
ON = (DomainState.RUNNING, DomainState.PAUSED)


class Stopped(Exception):  # noqa: N818 - the end of a line, not a fault
    """The machine is off, or gone: ``reason`` is what its viewers are told."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Where:
    """A machine on its host, as the database said; asking it needs no database."""

    uuid: UUID
    host: Host
    log: seriallog.Place | None

    def open(self, inbox: Inbox) -> ConsoleLine:
        at = connections.hypervisor(self.host)
        return at.open_console(self.uuid, inbox.receive, inbox.end)

    def facts(self) -> DomainFacts:
        return connections.hypervisor(self.host).domain(self.uuid)

    def read_log(self) -> bytes:
        return self.log.read_end(ring.MOST_BYTES) if self.log is not None else b""


class Hub:
    def __init__(self, uuid: UUID) -> None:
        self.uuid = uuid
        self.loop = asyncio.get_running_loop()
        self.viewers: set[Viewer] = set()
        self.over = False
        self.size = DEFAULT_SIZE
        self._ring = ring.Ring()
        self._ready = asyncio.Event()  # the first attempt to open it has come to something
        self._trouble = ""  # why there is no line just now
        self._line: ConsoleLine | None = None
        self._served: relay.Served | None = None  # to this site's other processes
        self._followed: relay.Followed | None = None  # at one of them
        self._typed = bytearray()
        self._typed_event = asyncio.Event()
        self._typed_room = asyncio.Condition()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="serial-hub")
        self._leaving: asyncio.TimerHandle | None = None
        self._task = self.loop.create_task(self._run())

    # --- for viewers --------------------------------------------------------------------------

    def join(self, mode: str) -> Viewer:
        viewer = Viewer(mode=mode, hub=self)
        self.viewers.add(viewer)
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._ready.is_set():
            self._greet(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        if not self.viewers and not self.over and self._leaving is None:
            self._leaving = self.loop.call_later(LINGER_S, self._retire)

    def _retire(self) -> None:
        self.over = True  # whoever comes now gets another hub
        self._task.cancel()

    async def type(self, data: bytes) -> int:
        """Input for the guest; waits while much is on its way to it. Returns how many bytes were
        dropped: without a line all of them (typed into the dark, they would come out at a wrong
        moment), and of a guest that does not read what finds no room within ``ROOM_WAIT_S``."""
        for start in range(0, len(data), WRITE_BYTES):
            if self._line is None or not await self._room():
                return len(data) - start
            self._typed += data[start : start + WRITE_BYTES]
            self._typed_event.set()
        return 0

    async def _room(self) -> bool:
        if len(self._typed) < INPUT_MOST_BYTES:
            return True
        with contextlib.suppress(asyncio.TimeoutError):
            async with self._typed_room:
                await asyncio.wait_for(
                    self._typed_room.wait_for(lambda: len(self._typed) < INPUT_MOST_BYTES),
                    ROOM_WAIT_S,
                )
        return self._line is not None and len(self._typed) < INPUT_MOST_BYTES

    def resize(self, columns: int, rows: int) -> None:
        """The size of the screen of who types: the line knows none, a recording needs one."""
        if self._take_size((columns, rows)) and (shared := self._served or self._followed):
            self.loop.create_task(shared.resize((columns, rows)))

    def _take_size(self, size: relay.Size) -> bool:
        """Whether it is another one."""
        if size == self.size:
            return False
        self.size = size
        for viewer in self.viewers:
            viewer.tell(type="size", cols=size[0], rows=size[1])
        return True

    # --- its life -----------------------------------------------------------------------------

    async def _run(self) -> None:
        reason = "unavailable"
        try:
            reason = await self._until_stopped()
        except asyncio.CancelledError:
            reason = "client"  # nobody is here
        except Exception:
            log.exception("the serial line of %s", self.uuid)
        finally:
            self.over = True
            key = (id(self.loop), self.uuid)
            if _hubs.get(key) is self:
                del _hubs[key]
            self._greet_everybody()
            for viewer in self.viewers:
                viewer.end(reason)
            self._threads.shutdown(wait=False)

    async def _until_stopped(self) -> str:
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                await self._open_and_read()
                attempt = 0 if time.monotonic() - began > RETRY_S[-1] else attempt
            except Stopped as stopped:
                return stopped.reason
            except Unsupported as error:
                log.warning("no serial line at %s: %s ref=%s", self.uuid, error.raw, error.ref)
                return "unavailable"
            except VirtError as error:
                self._say_trouble(_word(error))
                self._greet_everybody()
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    async def _open_and_read(self) -> None:
        """Returns when the line has ended although the machine is on. Stopped, VirtError."""
        here = await database_sync_to_async(_where)(self.uuid)
        inbox = Inbox()
        try:
            line = await self._open_or_follow(here, inbox)
        except (WrongState, NoSuchDomain):
            await self._fill_in(here, inbox)
            await self._look_why(here)
            return
        writer = asyncio.ensure_future(self._write(line))
        try:
            await self._fill_in(here, inbox)
            self._line = line
            if self._followed is None:
                self._served = relay.Served(
                    self.uuid, size=self.size, typed=self.type, resized=self._resize_by_follower
                )
            self._say_trouble("")
            self._greet_everybody()
            await self._read(inbox)
        finally:
            self._line = None
            writer.cancel()
            self._forget_typed()
            await asyncio.shield(self._let_go(line))
        await self._look_why(here)

    async def _let_go(self, line: ConsoleLine) -> None:
        served, self._served, self._followed = self._served, None, None
        if served is not None:
            await served.stop()
        await self._in_thread(line.close)
        if served is not None:
            await served.let_go()

    async def _open_or_follow(self, here: Where, inbox: Inbox) -> ConsoleLine:
        """The line itself, or at the process of ours that reads it. ConsoleInUse: at neither."""
        try:
            return await self._open(here, inbox)
        except ConsoleInUse:
            followed = relay.Followed(
                self.uuid, inbox, resized=self._take_size, dropped=self._say_dropped
            )
            if not await followed.open():
                raise
            self._followed = followed
            return followed

    def _say_dropped(self, count: int) -> None:
        for viewer in self.viewers:
            if viewer.mode == "control":
                viewer.tell(type="dropped", bytes=count)

    def _resize_by_follower(self, size: relay.Size) -> None:
        self.resize(*size)

    async def _open(self, here: Where, inbox: Inbox) -> ConsoleLine:
        """A line that comes when nobody waits for it any more is closed: it takes one reader."""
        opening = asyncio.ensure_future(self._in_thread(partial(here.open, inbox)))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_late)
            raise

    def _close_late(self, opening: asyncio.Future[ConsoleLine]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.loop.run_in_executor(None, opening.result().close)

    async def _fill_in(self, here: Where, inbox: Inbox) -> None:
        """What the host's log has and this hub does not: all of it at first, later what was said
        while there was no line."""
        try:
            kept = await self._in_thread(here.read_log)
        except VirtError as error:
            log.info("no serial log of %s: %s", self.uuid, error)
            kept = b""
        live = inbox.take_now()
        missed = ring.missed(kept, self._ring.tail(), live)
        self._show(missed + live)

    async def _read(self, inbox: Inbox) -> None:
        while True:
            data, lost, ended = await inbox.take()
            if lost:
                for viewer in self.viewers:
                    viewer.tell(type="skipped", bytes=lost)
            self._show(data)
            if self._served is not None:
                await self._served.show(data, lost)
            if ended:
                return
            await asyncio.sleep(TURN_S)

    def _show(self, data: bytes) -> None:
        if not data:
            return
        self._ring.add(data)
        if self._ready.is_set():
            for viewer in self.viewers:
                viewer.offer(data)

    async def _look_why(self, here: Where) -> None:
        """After the line has ended. Stopped: the machine is off. Else it is to be opened again."""
        self._say_trouble("host")
        end = time.monotonic() + MOVING_S
        while True:
            facts = None
            with contextlib.suppress(NoSuchDomain):
                facts = await self._in_thread(here.facts)
            if facts is not None and facts.state in ON:
                return
            if facts is not None and facts.reason != "migrated":
                raise Stopped("stopped")
            # It has left this host: perhaps the site knows already where it went.
            now = await database_sync_to_async(_where)(self.uuid)
            if now.host.pk != here.host.pk:
                return
            if time.monotonic() > end:
                raise Stopped("stopped")
            self._say_trouble("moving")
            await asyncio.sleep(RETRY_S[0])

    # --- input --------------------------------------------------------------------------------

    async def _write(self, line: ConsoleLine) -> None:
        while True:
            await self._typed_event.wait()
            piece = bytes(self._typed[:WRITE_BYTES])
            if not piece:
                self._typed_event.clear()
                continue
            try:
                await self._in_thread(partial(line.write, piece))
            except VirtError as error:
                # The line's own end tells whoever looks; what was typed meanwhile is not kept.
                log.info("typing to %s: %s", self.uuid, error)
                self._typed.clear()
            del self._typed[: len(piece)]
            async with self._typed_room:
                self._typed_room.notify_all()

    def _forget_typed(self) -> None:
        self._typed.clear()
        self._typed_event.clear()
        self.loop.create_task(self._wake_typists())

    async def _wake_typists(self) -> None:
        async with self._typed_room:
            self._typed_room.notify_all()

    # --- what viewers are told ------------------------------------------------------------------

    def _greet_everybody(self) -> None:
        if not self._ready.is_set():
            self._ready.set()
            for viewer in self.viewers:
                self._greet(viewer)

    def _greet(self, viewer: Viewer) -> None:
        history = self._ring.content()
        viewer.tell(type="hello", mode=viewer.mode, history_bytes=len(history))
        if history:
            viewer.offer(history)
        viewer.tell(type="live")
        if self._trouble:
            viewer.tell(type="line", state="waiting", why=self._trouble)

    def _say_trouble(self, why: str) -> None:
        """``""``: there is a line. ``host``, ``moving``, ``in_use``: it is waited for."""
        if why == self._trouble:
            return
        self._trouble = why
        if self._ready.is_set():
            state = {"state": "waiting", "why": why} if why else {"state": "open"}
            for viewer in self.viewers:
                viewer.tell(type="line", **state)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self.loop.run_in_executor(self._threads, work)


# --- the hubs of this process ---------------------------------------------------------------------

_hubs: dict[tuple[int, UUID], Hub] = {}


def of(uuid: UUID) -> Hub:
    """The machine's hub in this event loop, made when there is none."""
    key = (id(asyncio.get_running_loop()), uuid)
    hub = _hubs.get(key)
    if hub is None or hub.over:
        hub = _hubs[key] = Hub(uuid)
    return hub


def _where(uuid: UUID) -> Where:
    """Stopped: it was deleted, or is nowhere."""
    vm = VM.objects.alive().select_related("host").filter(uuid=uuid).first()
    if vm is None:
        raise Stopped("deleted")
    if vm.host is None:
        raise Stopped("stopped")
    return Where(uuid=uuid, host=vm.host, log=seriallog.place(vm))


def _word(error: VirtError) -> str:
    if isinstance(error, ConsoleInUse):
        return "in_use"
    if isinstance(error, HostUnreachable):
        return "host"
    log.warning("a serial line cannot be opened: %s ref=%s", error.code, error.ref)
    return "host"
