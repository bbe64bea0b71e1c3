"""Between a WebSocket and a viewer of a serial line.

Binary frames are the line's bytes, as they are. Text frames are JSON: to the client ``hello``,
``live``, ``mode``, ``line``, ``skipped``, ``dropped``, ``end``; from it ``ack`` and ``size``
(docs/contributor/contracts.md). Who only looks may send what they like: it is dropped here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from vms.consoles import gate
from vms.consoles.serial.viewer import Viewer

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BYTES_PER_TURN = 256 * 1024  # then others get the loop
TEXT_MOST = 1024
MOST_COLUMNS = 1000
GOODBYE_S = 0.5  # a client that does not read is not waited for


class ProtocolError(Exception):
    """The client sent what no client of ours sends."""


async def pump(console: gate.Console, viewer: Viewer, receive: Receive, send: Send) -> str:
    """Both directions and the watch, until the first of them ends; returns the reason."""
    tasks = [
        asyncio.ensure_future(_to_client(console, viewer, send)),
        asyncio.ensure_future(_to_line(console, viewer, receive)),
        asyncio.ensure_future(gate.watch(console)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        reason = next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not viewer.end_reason and reason != "client":
        text = json.dumps({"type": "end", "reason": reason})
        with contextlib.suppress(OSError, RuntimeError, asyncio.TimeoutError):
            await asyncio.wait_for(send({"type": "websocket.send", "text": text}), GOODBYE_S)
    return reason


async def _to_client(console: gate.Console, viewer: Viewer, send: Send) -> str:
    turn = 0
    while (item := await viewer.next()) is not None:
        try:
            if isinstance(item, str):
                await send({"type": "websocket.send", "text": item})
                continue
            await send({"type": "websocket.send", "bytes": item})
        except (OSError, RuntimeError):
            return "client"
        console.bytes_out += len(item)
        turn += len(item)
        if turn >= BYTES_PER_TURN:
            turn = 0
            await asyncio.sleep(0)
    return viewer.end_reason


async def _to_line(console: gate.Console, viewer: Viewer, receive: Receive) -> str:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return "client"
        console.active_at = time.monotonic()
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            try:
                _take_message(viewer, text)
            except ProtocolError:
                return "protocol"
        elif data:
            console.bytes_in += len(data)
            if viewer.mode == "control" and (dropped := await viewer.hub.type(data)):
                viewer.tell(type="dropped", bytes=dropped)
        await asyncio.sleep(0)  # a client that sends without end gets one turn for each message


def _take_message(viewer: Viewer, text: str) -> None:
    """ProtocolError: not one of ours. A type that is not known is a newer client's: ignored."""
    if len(text) > TEXT_MOST:
        raise ProtocolError
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError
    if message["type"] == "ack":
        try:
            viewer.acknowledge(_number(message, "bytes"))
        except ValueError as error:
            raise ProtocolError from error
    elif message["type"] == "size":
        columns, rows = _number(message, "cols"), _number(message, "rows")
        if not (0 < columns <= MOST_COLUMNS and 0 < rows <= MOST_COLUMNS):
            raise ProtocolError
        if viewer.mode == "control":
            viewer.hub.resize(columns, rows)


def _number(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError
    return value
