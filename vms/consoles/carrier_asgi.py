"""The carrier inside the site: a raw ASGI application, without Channels on the byte path.

A Channels consumer costs a dispatch for each inbound message (measured: design, section 9).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from accounts.audit import resolve_address
from accounts.errors import DomainError
from vms.consoles import gate, rfb, targets, tickets
from vms.consoles.serial import pump as serial_pump
from vms.consoles.serial.download import send_log
from vms.consoles.serial.viewer import Viewer

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BYTES_PER_TURN = 1 << 20  # then others get the loop
# Of what a client sends: RFB's smallest messages have 4 bytes, and a frame full of them takes the
# parser a second, during which nobody else on this site would be answered.
PARSED_PER_TURN = 4096


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """One WebSocket: ``/ws/console/`` and ``vnc``, ``view``, ``serial`` or ``serial/log``."""
    if scope["type"] != "websocket":
        raise ValueError("the console carrier takes WebSockets only")
    if (await receive())["type"] != "websocket.connect":
        return
    kind = scope["path"].rstrip("/").partition("/ws/console/")[2]
    try:
        console = await gate.open_console(
            secret=gate.secret_of(list(scope.get("subprotocols", []))),
            kind=kind,
            origin=_header(scope, b"origin"),
            host=_header(scope, b"host"),
            cookie=_header(scope, b"cookie"),
            address=resolve_address(
                (scope.get("client") or ("", 0))[0], _header(scope, b"x-forwarded-for")
            ),
            carrier="asgi",
        )
    except DomainError as error:
        await _refuse(scope, send, gate.CLOSE_CODES[gate.reason_of(error)], error.code)
        return
    reason = "client"
    try:
        await send({"type": "websocket.accept", "subprotocol": tickets.SUBPROTOCOL})
        reason = await _carry(console, receive, send)
    finally:
        closing = asyncio.ensure_future(gate.close_console(console, reason))
        with contextlib.suppress(OSError, RuntimeError):  # the client may be gone already
            await send(
                {"type": "websocket.close", "code": gate.CLOSE_CODES[reason], "reason": reason}
            )
        await asyncio.shield(closing)


async def _refuse(scope: Scope, send: Send, code: int, reason: str) -> None:
    """Accept, then close with a code that the page can read: a refused handshake tells it nothing.

    Only where the client offered our subprotocol; anybody else gets a plain refusal.
    """
    if tickets.SUBPROTOCOL in scope.get("subprotocols", []):
        await send({"type": "websocket.accept", "subprotocol": tickets.SUBPROTOCOL})
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def _carry(console: gate.Console, receive: Receive, send: Send) -> str:
    if isinstance(console.target, Viewer):
        return await serial_pump.pump(console, console.target, receive, send)
    if isinstance(console.target, gate.NoTarget):
        return await send_log(console, receive, send)
    return await _pump(console, receive, send)


async def _pump(console: gate.Console, receive: Receive, send: Send) -> str:
    """Run both directions and the watch until the first of them ends; returns the reason."""
    tasks = [
        asyncio.ensure_future(_to_client(console, send)),
        asyncio.ensure_future(_to_server(console, receive)),
        asyncio.ensure_future(gate.watch(console)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_client(console: gate.Console, send: Send) -> str:
    target = cast("targets.Target", console.target)
    turn = 0
    while True:
        try:
            data = await target.read()
        except OSError:
            return "stopped"
        except targets.TargetEnded as ended:
            return ended.reason
        if not data:
            return "stopped"
        try:
            await send({"type": "websocket.send", "bytes": data})  # waits while the client is slow
        except (OSError, RuntimeError):
            return "client"
        console.bytes_out += len(data)
        turn += len(data)
        if turn >= BYTES_PER_TURN:
            turn = 0
            await asyncio.sleep(0)


async def _to_server(console: gate.Console, receive: Receive) -> str:
    target = cast("targets.Target", console.target)
    client = rfb.ClientFilter(view_only=console.grant.mode == "view")
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return "client"
        data = message.get("bytes")
        if data is None:
            return "protocol"
        console.bytes_in += len(data)
        console.active_at = time.monotonic()
        for start in range(0, len(data), PARSED_PER_TURN):
            began = time.perf_counter()
            try:
                if passed := client.feed(data[start : start + PARSED_PER_TURN]):
                    await target.write(passed)
            except rfb.ProtocolError:
                return "protocol"
            except OSError:
                return "stopped"
            if len(data) > PARSED_PER_TURN:
                # Others get at least as much of the loop as this client took.
                await asyncio.sleep(time.perf_counter() - began)
