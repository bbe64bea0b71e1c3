"""The carrier beside the site: this broker has Django, ``websockify_server`` carries the bytes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from accounts.audit import resolve_address
from accounts.errors import DomainError
from vms.consoles import gate

if TYPE_CHECKING:
    from vms.consoles.targets import Target

log = logging.getLogger(__name__)

MAX_MESSAGE = 65536  # a browser may have many cookies


async def serve(path: Path) -> None:
    """Answer the carrier's processes on a unix socket, for ever."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)  # never open to others, not even until a chmod
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(128)
    listener.settimeout(0)
    loop = asyncio.get_running_loop()
    open_consoles: set[asyncio.Task[None]] = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        task = asyncio.ensure_future(_serve_one(connection))
        open_consoles.add(task)
        task.add_done_callback(open_consoles.discard)


async def _serve_one(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    connection.settimeout(0)
    try:
        request = json.loads(await loop.sock_recv(connection, MAX_MESSAGE) or b"{}")
        try:
            console = await gate.open_console(
                secret=str(request.get("ticket", "")),
                kind=str(request.get("kind", "")),
                origin=str(request.get("origin", "")),
                host=str(request.get("host", "")),
                cookie=str(request.get("cookie", "")),
                address=resolve_address(
                    str(request.get("peer", "")), str(request.get("forwarded", ""))
                ),
                carrier="websockify",
            )
        except DomainError as error:
            code = gate.CLOSE_CODES[gate.reason_of(error)]
            await _say(connection, code=code, reason=error.code)
            return
        await _accompany(connection, console)
    except (OSError, ValueError):
        log.info("a console carrier's process went away")
    finally:
        connection.close()


async def _say(connection: socket.socket, **answer: Any) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, json.dumps(answer).encode())


async def _accompany(connection: socket.socket, console: gate.Console) -> None:
    """Hand the descriptor over, then wait for the end of either side."""
    reason = "client"
    try:
        answer = json.dumps({"mode": console.grant.mode}).encode()
        screen = cast("Target", console.target)  # websockify_server asks for no other kind
        socket.send_fds(connection, [answer], [screen.fileno()])
        reports = asyncio.ensure_future(_reports(connection, console))
        watch = asyncio.ensure_future(gate.watch(console))
        done, _ = await asyncio.wait({reports, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch in done:
            reason = watch.result()
            await _say(connection, code=gate.CLOSE_CODES[reason], reason=reason)
        for task in (reports, watch):
            task.cancel()
        await asyncio.gather(reports, watch, return_exceptions=True)
    finally:
        await gate.close_console(console, reason)


async def _reports(connection: socket.socket, console: gate.Console) -> None:
    """Take the numbers that the carrier's process tells each second, until it ends."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connection, MAX_MESSAGE):
        numbers = json.loads(data)
        if numbers["in"] != console.bytes_in:
            console.active_at = time.monotonic()
        console.bytes_in, console.bytes_out = numbers["in"], numbers["out"]
