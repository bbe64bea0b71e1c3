"""One serial line for several processes of the site.

A host gives a line to one reader. The process that reads it serves it to the others over Redis:
they *follow* it, and show it as if it were their own. Whoever listens on a machine's ``in`` channel
has its line; one that dies or lets it go is found out, and a follower tries to read it itself.

Messages begin with a letter. To the holder: ``?`` (a follower is there; again and again), ``t``
(typed), ``s`` (columns x rows). From it: ``!`` (the answer, with the size), ``d`` (bytes of the
line), ``l`` (how many were lost), ``x`` (how many typed ones the guest did not take), ``s``, ``e``
(it is let go). Without Redis nobody follows: a
second process then says that the line is in use.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from redis import asyncio as aioredis
from redis.exceptions import RedisError

from hosts.virt.errors import HostUnreachable, OperationTimeout

if TYPE_CHECKING:
    from vms.consoles.serial.inbox import Inbox

log = logging.getLogger(__name__)

ASK_EVERY_S = 1.0
ANSWER_S = 1.0  # how long who follows waits for the first answer
SILENT_S = 4.0  # a holder, or a follower, that says nothing for so long is not there any more
WRITE_S = 5.0
AGAIN_S = 2.0  # when Redis did not answer
LISTEN_S = 10.0  # then the connection is looked at
TYPED_MOST = 64  # messages of followers that wait for the guest

Size = tuple[int, int]  # columns, rows
Typed = Callable[[bytes], Awaitable[int]]
Dropped = Callable[[int], object]
Heard = Callable[[bytes, bytes], Awaitable[None]]  # (letter, the rest)
Resized = Callable[[Size], object]


def _channels(uuid: UUID) -> tuple[str, str]:
    """(to who has the line, from them)."""
    return f"kvmweb.serial.{uuid}.in", f"kvmweb.serial.{uuid}.out"


def _client() -> aioredis.Redis:
    return aioredis.from_url(settings.REDIS_URL, socket_timeout=WRITE_S, socket_connect_timeout=1)


def _size(size: Size) -> bytes:
    return b"%dx%d" % size


def _read_size(data: bytes) -> Size:
    columns, _, rows = data.partition(b"x")
    return int(columns), int(rows)


class _Listener:
    """Calls ``heard`` with each message of a channel, until it is stopped."""

    def __init__(self, client: aioredis.Redis, channel: str, heard: Heard) -> None:
        self._client, self._channel, self._heard = client, channel, heard
        self._stopped = False
        self.listens = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        # Its client may take a cancellation for a time-out of its own: then the word is asked.
        self._stopped = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self._listen()
            except (RedisError, OSError) as error:  # noqa: PERF203 - again after a while
                log.info("a serial line cannot be shared now: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            self.listens.set()
            while not self._stopped:
                message = await pubsub.get_message(timeout=LISTEN_S)
                if message is not None and message["data"]:
                    data = bytes(message["data"])
                    await self._heard(data[:1], data[1:])


class Served:
    """A line that this process reads, for those who follow. Nothing of a fault here reaches it."""

    def __init__(self, uuid: UUID, *, size: Size, typed: Typed, resized: Resized) -> None:
        self._in, self._out = _channels(uuid)
        self._size = size
        self._typed, self._resized = typed, resized
        self._client = _client()
        self._followed_at = float("-inf")
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(TYPED_MOST)
        self._listener = _Listener(self._client, self._in, self._take)
        self._typing = asyncio.ensure_future(self._type())

    async def show(self, data: bytes, lost: int = 0) -> None:
        if lost:
            await self._tell(b"l%d" % lost)
        if data:
            await self._tell(b"d" + data)

    async def resize(self, size: Size) -> None:
        self._size = size
        await self._tell(b"s" + _size(size))

    async def stop(self) -> None:
        """Nothing typed is taken any more."""
        await self._listener.stop()
        self._typing.cancel()
        await asyncio.gather(self._typing, return_exceptions=True)

    async def let_go(self) -> None:
        """The line is free: followers may read it."""
        await self._tell(b"e")
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()

    async def _tell(self, message: bytes) -> None:
        if time.monotonic() - self._followed_at > SILENT_S:
            return  # nobody follows: the usual case costs nothing
        try:
            await self._client.publish(self._out, message)
        except (RedisError, OSError) as error:
            self._followed_at = float("-inf")  # they will ask again
            log.info("a serial line is not passed on: %s", error)

    async def _take(self, word: bytes, data: bytes) -> None:
        if word == b"?":
            self._followed_at = time.monotonic()
            await self._tell(b"!" + _size(self._size))
        elif word == b"t":
            if self._waiting.full():
                await self._tell(b"x%d" % len(data))
            else:
                self._waiting.put_nowait(data)
        elif word == b"s":
            self._resized(_read_size(data))

    async def _type(self) -> None:
        """Apart from listening: a guest that does not read holds nobody up."""
        while True:
            if dropped := await self._typed(await self._waiting.get()):
                await self._tell(b"x%d" % dropped)


class Followed:
    """A ``ConsoleLine`` that another process of this site reads."""

    def __init__(self, uuid: UUID, inbox: Inbox, *, resized: Resized, dropped: Dropped) -> None:
        self._in, self._out = _channels(uuid)
        self._inbox = inbox
        self._resized, self._dropped = resized, dropped
        self._loop = asyncio.get_running_loop()
        self._client = _client()
        self._listener = _Listener(self._client, self._out, self._hear)
        self._answered = asyncio.Event()
        self._answered_at = time.monotonic()
        self._asking: asyncio.Future[None] | None = None

    async def open(self) -> bool:
        """Whether a process of ours has the line, and passes it on from now on."""
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._listener.listens.wait(), ANSWER_S)
            end = time.monotonic() + ANSWER_S
            while time.monotonic() < end:
                if await self._say(b"?"):
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._answered.wait(), ANSWER_S / 4)
                        self._asking = asyncio.ensure_future(self._ask_on())
                        return True
                else:
                    await asyncio.sleep(ANSWER_S / 8)
        except (RedisError, OSError) as error:
            log.info("no other process can be asked for a serial line: %s", error)
        except BaseException:
            await self._close()
            raise
        await self._close()
        return False

    # --- as the hub uses a line, from a thread --------------------------------------------------

    def write(self, data: bytes) -> None:
        """HostUnreachable: nobody reads the line any more. OperationTimeout."""
        saying = asyncio.run_coroutine_threadsafe(self._say(b"t" + data), self._loop)
        try:
            heard = saying.result(WRITE_S)
        except (RedisError, OSError) as error:
            raise HostUnreachable(str(error)) from error
        except concurrent.futures.TimeoutError as error:
            raise OperationTimeout("typing to another process") from error
        if not heard:
            self._inbox.end()
            raise HostUnreachable("no process reads the line now")

    def close(self) -> None:
        closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            closing.result(WRITE_S)

    # --- in the loop ----------------------------------------------------------------------------

    async def resize(self, size: Size) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._say(b"s" + _size(size))

    async def _say(self, message: bytes) -> int:
        """How many heard it: 1, or nobody has the line."""
        return int(await self._client.publish(self._in, message))

    async def _hear(self, word: bytes, data: bytes) -> None:
        self._answered_at = time.monotonic()
        if word == b"d":
            # What came before the answer stands in the host's log, which is read after it.
            if self._answered.is_set():
                self._inbox.receive(data)
        elif word == b"!":
            self._answered.set()
            self._resized(_read_size(data))
        elif word == b"s":
            self._resized(_read_size(data))
        elif word == b"l":
            self._inbox.lose(int(data))
        elif word == b"x":
            self._dropped(int(data))
        elif word == b"e":
            self._inbox.end()

    async def _ask_on(self) -> None:
        """Say that somebody follows, and notice when nobody answers."""
        while time.monotonic() - self._answered_at < SILENT_S:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                if not await self._say(b"?"):
                    break
            except (RedisError, OSError):
                continue
        self._inbox.end()

    async def _close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        await self._listener.stop()
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()
