"""A machine's serial line in this terminal: ``kvmweb console NAME``. Ctrl+] leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kvmweb_cli.api import Api
from kvmweb_cli.errors import CommandError
from kvmweb_cli.neutral import Neutral

LEAVE = b"\x1d"  # Ctrl+], as in virsh console
READ_BYTES = 4096
TAIL_BYTES = 256
QUIET_S = 2.0
SHORT_S = 10.0  # a connection that lived so long was a good one
RETRY_S = (0.5, 1, 2, 5, 10, 10, 10)
# Back to what a shell expects, whatever the guest has switched on: attributes, cursor, the other
# screen, mouse reports, bracketed paste, keypad and cursor keys.
SANE = b"\x1b[0m\x1b[?25h\x1b[?1049l\x1b[?1000;1002;1003;1004;1006;2004l\x1b[?1l\x1b>"
WHY_WAITING = {
    "host": "the host does not answer; waiting for it",
    "moving": "the machine moves to another host",
    "in_use": "another program on the host reads this line; waiting until it leaves",
}
ENDS = {
    "stopped": "The machine is stopped.",
    "deleted": "The machine was deleted.",
    "revoked": "You may not use this console any more.",
    "signed_out": "The token was taken back.",
    "idle": "Closed: nothing was typed for a long time.",
    "limit": "Closed: it was open for very long.",
    "unavailable": "The line cannot be reached on its host.",
}


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """The terminal passes every key on. Given back as it was, however this ends: signals that end
    a process become an exception meanwhile."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


class _Ended(Exception):  # noqa: N818 - an end, not an error
    """The console is over; with the words to end with."""


class Console:
    """``mode``: ``view``, ``control`` or None, whichever is free. ``unfiltered``: control strings
    of the guest reach the terminal as well."""

    def __init__(
        self, api: Api, vm: dict[str, Any], *, mode: str | None, take: bool, unfiltered: bool
    ) -> None:
        self._api, self._vm = api, vm
        self._mode, self._take = mode, take
        self._clean = None if unfiltered else Neutral()
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._tail = b""  # the last of the line that was shown: a new connection goes on there
        self._heard_at = 0.0

    def run(self) -> None:
        """CommandError: it could not be opened. Told before the terminal is raw."""
        ticket = self._ticket()
        sys.stderr.write(f"Connected to {self._vm['name']}. Ctrl+] leaves.\n")
        ending = ""
        try:
            with raw(self._input):
                asyncio.run(self._stay(ticket))
        except _Ended as ended:
            ending = str(ended)
        finally:
            if os.isatty(self._output):
                os.write(self._output, SANE)
        sys.stderr.write(f"\n{ending}\n" if ending else "\n")

    def _ticket(self) -> dict[str, Any]:
        ticket = self._api.ticket(self._vm["uuid"], "serial", mode=self._mode, take=self._take)
        self._take = False
        return ticket

    async def _stay(self, ticket: dict[str, Any]) -> None:
        """Connected, and again when the connection is lost. _Ended."""
        attempt = 0
        while True:
            began = time.monotonic()
            with contextlib.suppress(ConnectionClosed, InvalidHandshake, OSError):
                await self._once(ticket)
            attempt = attempt + 1 if time.monotonic() - began < SHORT_S else 0
            self._note("the connection was lost; connecting again")
            while True:
                if attempt >= len(RETRY_S):
                    raise _Ended("The site does not answer any more.")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wants_out(), RETRY_S[attempt])
                try:
                    ticket = await asyncio.to_thread(self._ticket)
                    break
                except CommandError as error:
                    self._note(str(error))
                    attempt += 1

    async def _once(self, ticket: dict[str, Any]) -> None:
        """One connection. _Ended, or it returns or raises as it is lost."""
        line = await connect(
            ticket["url"], subprotocols=ticket["protocols"], compression=None, max_size=None
        )
        tasks = [asyncio.ensure_future(work) for work in (self._keys(line), self._show(line))]
        if os.isatty(self._output):
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGWINCH, lambda: asyncio.ensure_future(_say_size(line))
            )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await line.close()

    # --- keys ---------------------------------------------------------------------------------

    async def _keys(self, line: ClientConnection) -> None:
        while True:
            data = await self._read()
            if not data:
                await self._quiet()
                raise _Ended("")
            keys, leave, _ = data.partition(LEAVE) if os.isatty(self._input) else (data, b"", b"")
            if keys:
                await line.send(keys)
            if leave:
                raise _Ended("")

    async def _wants_out(self) -> None:
        """While there is no line: what is typed goes nowhere, but one may leave."""
        while LEAVE not in await self._read():
            continue
        raise _Ended("")

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._input, readable.set)
        except PermissionError:  # a file is always readable, and epoll takes none
            return os.read(self._input, READ_BYTES)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._input)
        return os.read(self._input, READ_BYTES)

    async def _quiet(self) -> None:
        """After the end of a pipe the guest may answer for a while."""
        self._heard_at = time.monotonic()
        while time.monotonic() - self._heard_at < QUIET_S:
            await asyncio.sleep(QUIET_S / 10)

    # --- what the line says -------------------------------------------------------------------

    async def _show(self, line: ClientConnection) -> None:
        history: bytearray | None = bytearray()
        async for frame in line:
            if isinstance(frame, bytes):
                if history is None:
                    self._write(frame)
                else:
                    history += frame
                await line.send(json.dumps({"type": "ack", "bytes": len(frame)}))
                continue
            told = json.loads(frame)
            if told["type"] == "live" and history is not None:
                self._write(self._unseen(bytes(history)))
                history = None
                await _say_size(line)
            else:
                self._told(told)

    def _told(self, told: dict[str, Any]) -> None:
        kind = told["type"]
        if kind == "end" and told["reason"] in ENDS:
            raise _Ended(ENDS[told["reason"]])
        if kind in ("hello", "mode") and told["mode"] == "view":
            self._note("you look: somebody else has control, or you may only look")
        elif kind == "mode":
            self._note("you have control")
        elif kind == "line":
            self._note(WHY_WAITING.get(told.get("why", ""), "the line is open"))
        elif kind in ("skipped", "dropped"):
            what = "not shown" if kind == "skipped" else "not taken by the guest"
            self._note(f"{told['bytes']} bytes were {what}")

    def _unseen(self, history: bytes) -> bytes:
        found = history.rfind(self._tail) if self._tail else -1
        return history[found + len(self._tail) :] if found >= 0 else history

    def _write(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        data = data if self._clean is None else self._clean.feed(data)
        while data:
            select.select([], [self._output], [])  # it may share a description that does not block
            data = data[os.write(self._output, data[:READ_BYTES]) :]

    def _note(self, text: str) -> None:
        sys.stderr.write(f"\r\n[kvmweb: {text}]\r\n")
        sys.stderr.flush()


async def _say_size(line: ClientConnection) -> None:
    if not sys.stdout.isatty():
        return
    size = shutil.get_terminal_size()
    with contextlib.suppress(ConnectionClosed):
        await line.send(json.dumps({"type": "size", "cols": size.columns, "rows": size.lines}))


def download(api: Api, vm: dict[str, Any]) -> None:
    """All that the host keeps of the line, as it is, to standard output."""
    ticket = api.ticket(vm["uuid"], "serial", mode="view")
    asyncio.run(_download(ticket))


async def _download(ticket: dict[str, Any]) -> None:
    missing = -1
    try:
        async with connect(
            ticket["url"] + "/log", subprotocols=ticket["protocols"], max_size=None
        ) as line:
            async for frame in line:
                if isinstance(frame, bytes):
                    sys.stdout.buffer.write(frame)
                    missing -= len(frame)
                else:
                    missing = int(json.loads(frame)["bytes"])
    except (ConnectionClosed, InvalidHandshake, OSError) as error:
        raise CommandError(f"The log could not be read: {error}") from error
    sys.stdout.buffer.flush()
    if missing:
        raise CommandError("The log could not be read to its end.")
