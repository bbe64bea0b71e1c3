"""The viewers of one machine's screen and their one connection to it, in one event loop.

The display is asked only while a viewer waits for something new, at most ``FPS`` times a second,
and less often when encoding takes long: never more than half of one core for one screen. A viewer
gets an update when it asks for one, made of whatever is newest then: who is slow skips, and nothing
is kept for it. Work on pixels is done in threads, one piece at a time for each screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

from accounts.errors import Unavailable
from vms.consoles import targets
from vms.consoles.hub import upstream
from vms.consoles.hub.encode import Cursor, Encoding
from vms.consoles.hub.screen import Screen, Update, Wanted
from vms.consoles.hub.viewer import SizeError, Viewer
from vms.models import VM

log = logging.getLogger(__name__)
T = TypeVar("T")

FPS = 16
OPEN_TIMEOUT_S = 10.0
FIRST_FRAME_S = 2.0  # then it is shown as far as it has come
LINGER_S = 3.0  # after the last viewer: a page that reconnects finds it open
MOST_BYTES = 1 << 20  # of one update: what a stalled viewer costs
_BYTES_PER_TURN = 1 << 20
_PAUSE_MIN_S = 0.005

_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="screens")
_rooms: dict[tuple[int, UUID], asyncio.Future[Room]] = {}


async def open_view(vm: VM, *, most_bytes: int = MOST_BYTES) -> View:
    """A viewer's end of the machine's screen. Unavailable."""
    key = (id(asyncio.get_running_loop()), vm.uuid)
    opening = _rooms.get(key)
    if opening is None:
        opening = _rooms[key] = asyncio.ensure_future(_open(vm, key))
    room = await asyncio.shield(opening)
    return room.enter(most_bytes)


async def _open(vm: VM, key: tuple[int, UUID]) -> Room:
    try:
        target = await targets.open_vnc(vm)
        room = Room(target, name=vm.name, on_close=lambda: _rooms.pop(key, None))
        try:
            await asyncio.wait_for(room.start(), OPEN_TIMEOUT_S)
        except (asyncio.TimeoutError, OSError) as error:
            room.close()
            raise Unavailable("console.target", name=vm.name, ref="") from error
    except BaseException:
        _rooms.pop(key, None)
        raise
    return room


class Room:
    def __init__(
        self, target: targets.Target, *, name: str, on_close: Callable[[], object]
    ) -> None:
        self.name = name
        self.end_reason = ""  # "": it is open
        self._target = target
        self._on_close = on_close
        self._client = upstream.DisplayClient()
        self._screen: Screen | None = None  # the one that has been shown whole
        self._views: set[View] = set()
        self._wanted = asyncio.Event()  # somebody waits for something new
        self._news = asyncio.Event()  # the display has said something
        self._lock = asyncio.Lock()  # around work on pixels
        self._busy_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.TimerHandle | None = None

    @property
    def screen(self) -> Screen:
        assert self._screen is not None  # noqa: S101 - start() waits for it
        return self._screen

    @property
    def cursor(self) -> Cursor | None:
        return self._client.cursor

    async def start(self) -> None:
        """Until the first picture has come. OSError: there is none."""
        self._tasks.append(asyncio.ensure_future(self._read()))
        while self._client.screen is None:
            await self._hear()
        await self._renew()
        self._tasks.append(asyncio.ensure_future(self._drive()))

    def enter(self, most_bytes: int) -> View:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        view = View(self, most_bytes)
        self._views.add(view)
        return view

    def leave(self, view: View) -> None:
        self._views.discard(view)
        if self._views or self.end_reason:
            return
        loop = asyncio.get_running_loop()
        self._closing = loop.call_later(LINGER_S, self.close)

    def ask(self) -> None:
        """Somebody waits for something new."""
        self._wanted.set()

    def close(self, reason: str = "stopped") -> None:
        if self.end_reason:
            return
        self.end_reason = reason
        self._on_close()
        self._target.close()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._news.set()
        for view in self._views:
            view.wake()

    async def compose(
        self, screen: Screen, wanted: Wanted, encoding: Encoding, most_bytes: int
    ) -> Update:
        async with self._lock:
            known = screen.composed(wanted, encoding, most_bytes)
            if known is not None:
                return known
            return await self._in_thread(lambda: screen.compose(wanted, encoding, most_bytes))

    # --- the display ----------------------------------------------------------------------------
    async def _read(self) -> None:
        reason, turn = "stopped", 0
        try:
            while data := await self._target.read():
                updates = self._client.updates
                if answer := self._client.feed(data):
                    await self._target.write(answer)
                if self._client.updates != updates or self._client.screen is not self._screen:
                    self._news.set()
                turn += len(data)
                if turn >= _BYTES_PER_TURN:
                    turn = 0
                    await asyncio.sleep(0)
        except OSError:
            pass
        except upstream.DisplayError as error:
            log.warning("the display of %s is not understood: %s", self.name, error)
            reason = "unavailable"
        finally:
            self.close(reason)

    async def _drive(self) -> None:
        """Ask the display while somebody waits, neither too often nor beyond what encoding may
        take."""
        busy_before = self._busy_s
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                began = time.monotonic()
                await self._renew()
                for view in self._views:
                    view.wake()
                # Also what viewers made of the update before.
                busy, busy_before = self._busy_s - busy_before, self._busy_s
                pause = max(1 / FPS, 2 * busy) - (time.monotonic() - began)
                await asyncio.sleep(max(_PAUSE_MIN_S, pause))
        except OSError:
            self.close()

    async def _renew(self) -> None:
        """Ask for what is new, wait for it, take it over."""
        while True:
            screen = self._client.screen
            assert screen is not None  # noqa: S101 - it has told its size
            is_new, updates = screen is not self._screen, self._client.updates
            await self._target.write(self._client.request(incremental=not is_new))
            if is_new:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._whole(screen), FIRST_FRAME_S)
            else:
                while self._client.updates == updates:
                    await self._hear()
            if self._client.screen is screen:
                break  # else it has another size already
        async with self._lock:
            touched = screen.take_touched()
            if touched.any():
                screen.commit(await self._in_thread(lambda: screen.renew(touched)))
            screen.forget_encodings({view.encoding for view in self._views})
        self._screen = screen

    async def _whole(self, screen: Screen) -> None:
        while not screen.is_all_touched and self._client.screen is screen:
            await self._hear()

    async def _hear(self) -> None:
        if self.end_reason:
            raise OSError("the display has ended")
        self._news.clear()
        await self._news.wait()
        if self.end_reason:
            raise OSError("the display has ended")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(_threads, work)
        finally:
            self._busy_s += time.monotonic() - began


class View:
    """One viewer's ``targets.Target``: reads what a server of RFB sends, writes what its client
    says (after ``rfb.ClientFilter``)."""

    def __init__(self, room: Room, most_bytes: int) -> None:
        self._room = room
        self._most_bytes = most_bytes
        self._viewer = Viewer(room.screen, name=room.name)
        self._out = bytearray(self._viewer.hello())
        self._woken = asyncio.Event()
        self._closed = False

    @property
    def encoding(self) -> Encoding:
        return self._viewer.encoding

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as this viewer's client knows them."""
        return self._viewer.size

    def wake(self) -> None:
        self._woken.set()

    async def read(self) -> bytes:
        while True:
            self._woken.clear()
            if self._closed:
                return b""
            if self._out:
                data, self._out = bytes(self._out), bytearray()
                return data
            if self._room.end_reason == "stopped":
                return b""
            if self._room.end_reason:
                raise targets.TargetEnded(self._room.end_reason)
            if update := await self._next_update():
                return update
            await self._woken.wait()

    async def write(self, data: bytes) -> None:
        self._out += self._viewer.feed(data)
        self._woken.set()

    def fileno(self) -> int:
        raise OSError("a viewer has no descriptor of its own")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._woken.set()
            self._room.leave(self)

    async def _next_update(self) -> bytes:
        """What the client asked for, if there is anything new of it."""
        viewer, screen = self._viewer, self._room.screen
        try:
            if told := viewer.follow(screen):
                return told
        except SizeError as error:
            raise targets.TargetEnded("unavailable") from error
        if viewer.request is None:
            return b""
        if told := viewer.cursor_update(self._room.cursor):
            return told
        wanted = viewer.wanted()
        if wanted is None:
            self._room.ask()
            return b""
        update = await self._room.compose(screen, wanted, viewer.encoding, self._most_bytes)
        viewer.sent(update.held)
        return update.content
