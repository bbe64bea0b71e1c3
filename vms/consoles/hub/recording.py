"""A recording of a screen: the stream that a viewer gets, with times, in the format FBS.

FBS (rfbproxy): ``FBS 001.000\\n``, then pieces of the server stream, each as its length (32 bits),
its bytes padded to a multiple of four, and its time in milliseconds (32 bits), all big-endian. The
first piece is everything up to the end of ServerInit. Every ``WHOLE_EVERY_S`` the whole picture
comes again; since no rectangle needs one before it, a player can begin there: the index tells
where, as lines ``[milliseconds, offset in the file, width, height]``.
"""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING

from vms.consoles import rfb, targets
from vms.consoles.hub import encode, room
from vms.consoles.hub.viewer import VERSION

if TYPE_CHECKING:
    from vms.consoles.recorder import Sink
    from vms.models import VM

MAGIC = b"FBS 001.000\n"
WHOLE_EVERY_S = 10.0
MOST_BYTES = 16 << 20  # of one update: a whole picture is one
_QUALITY = 7
_ENCODINGS = (encode.TIGHT, encode.QUALITY_LEVELS[_QUALITY], encode.CURSOR, encode.DESKTOP_SIZE)
_INCREMENTAL, _WHOLE = 1, 0


async def record(vm: VM, sink: Sink) -> str:
    """Write what a viewer sees until the machine's display ends; the reason."""
    view = await room.open_view(vm, most_bytes=MOST_BYTES)
    try:
        return await _Recording(view, sink).run()
    except targets.TargetEnded as ended:
        return ended.reason
    except OSError:
        return "stopped"
    finally:
        view.close()


class _Recording:
    def __init__(self, view: room.View, sink: Sink) -> None:
        self._view, self._sink = view, sink

    async def run(self) -> str:
        await self._sink.write(MAGIC)
        await self._piece(await self._greeting())
        count = len(_ENCODINGS)
        await self._view.write(struct.pack(f">BxH{count}i", rfb.SET_ENCODINGS, count, *_ENCODINGS))
        whole_at = 0.0
        while True:
            now = time.monotonic()
            whole = now - whole_at >= WHOLE_EVERY_S
            if whole:
                whole_at = now
            await self._ask(_WHOLE if whole else _INCREMENTAL)
            update = await self._view.read()
            if not update:
                return "stopped"
            if _is_picture(update) and whole:
                at = [self._sink.elapsed_ms(), self._sink.size, *self._view.size]
                await self._sink.mark(json.dumps(at).encode())
            elif whole:
                whole_at = 0.0  # a new size or pointer came first: the whole picture is next
            await self._piece(update)

    async def _greeting(self) -> bytes:
        """The server's side of the handshake, as a player's client will hear it."""
        heard = await self._view.read()
        for answer in (VERSION, b"\x01", b"\x01"):
            await self._view.write(answer)
            heard += await self._view.read()
        return heard

    async def _ask(self, incremental: int) -> None:
        width, height = self._view.size
        await self._view.write(
            struct.pack(">BBHHHH", rfb.FRAMEBUFFER_UPDATE_REQUEST, incremental, 0, 0, width, height)
        )

    async def _piece(self, data: bytes) -> None:
        padding = bytes(-len(data) % 4)
        at = struct.pack(">I", self._sink.elapsed_ms() & 0xFFFFFFFF)
        await self._sink.write(struct.pack(">I", len(data)) + data + padding + at)


def _is_picture(update: bytes) -> bool:
    """Not only a size or a pointer's shape."""
    (kind,) = struct.unpack_from(">i", update, 12)
    return kind in (encode.TIGHT, encode.RAW)
