"""The whole log of a serial line over a WebSocket of its own, ``/ws/console/serial/log``.

A page never asks a host, and a job would make the machine busy and stand in its activity for
reading a file. So it goes as the line itself does: a ticket, the console's gate, the host asked by
the console's process. One text frame ``{"type": "log", "bytes": N}``, the bytes, the end.
"""

from __future__ import annotations

import asyncio
import json

from channels.db import database_sync_to_async

from hosts.virt.errors import VirtError
from vms import seriallog
from vms.consoles import gate
from vms.consoles.serial.pump import Receive, Send

FRAME_BYTES = 64 * 1024


async def send_log(console: gate.Console, receive: Receive, send: Send) -> str:
    """Returns the reason of the end: ``client`` when all was sent, or the client has gone."""
    watch = asyncio.ensure_future(gate.watch(console))
    sending = asyncio.ensure_future(_send(console, send))
    gone = asyncio.ensure_future(_until_gone(receive))
    tasks = (watch, sending, gone)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(console: gate.Console, send: Send) -> str:
    place = await database_sync_to_async(seriallog.place)(console.grant.vm)
    try:
        found = await asyncio.to_thread(place.read_all) if place is not None else b""
    except VirtError:
        return "unavailable"
    try:
        await send(
            {"type": "websocket.send", "text": json.dumps({"type": "log", "bytes": len(found)})}
        )
        for start in range(0, len(found), FRAME_BYTES):
            frame = found[start : start + FRAME_BYTES]
            await send({"type": "websocket.send", "bytes": frame})
            console.bytes_out += len(frame)
            await asyncio.sleep(0)
    except (OSError, RuntimeError):
        return "client"
    return "client"


async def _until_gone(receive: Receive) -> str:
    """What the client says is not listened to."""
    while (await receive())["type"] != "websocket.disconnect":
        await asyncio.sleep(0)
    return "client"
