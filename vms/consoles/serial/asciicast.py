"""A recording of a serial line: asciicast v2, as asciinema and xterm.js players read it.

https://docs.asciinema.org/manual/asciicast/v2/: a line of JSON with the size, then lines
``[seconds, "o", text]``; ``"r"`` is a new size of the screen of who types, ``"m"`` a note. The
format holds text: bytes that are no UTF-8 become replacement characters, here and only here.
"""

from __future__ import annotations

import codecs
import json
import time
from typing import TYPE_CHECKING

from vms.consoles.serial import hub

if TYPE_CHECKING:
    from vms.consoles.recorder import Sink
    from vms.models import VM


async def record(vm: VM, sink: Sink) -> str:
    """What the line says from now on, until it ends; the reason. It counts as somebody who looks,
    so the line stays open meanwhile."""
    line = hub.of(vm.uuid)
    viewer = line.join("view")
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    try:
        columns, rows = line.size
        head = {
            "version": 2,
            "width": columns,
            "height": rows,
            "timestamp": int(time.time()),
            "title": vm.name,
            "env": {"TERM": "xterm-256color"},
        }
        await sink.write(_line(head))
        live = False
        while (item := await viewer.next()) is not None:
            if isinstance(item, bytes):
                viewer.acknowledge(len(item))
                if live and (text := decode(item)):
                    await _event(sink, "o", text)
                continue
            told = json.loads(item)
            live = live or told["type"] == "live"  # what was said before belongs to no recording
            if told["type"] == "size":
                await _event(sink, "r", f"{told['cols']}x{told['rows']}")
            elif told["type"] == "skipped":
                await _event(sink, "m", f"{told['bytes']} bytes left out")
        return viewer.end_reason
    finally:
        viewer.close()


async def _event(sink: Sink, code: str, text: str) -> None:
    await sink.write(_line([sink.elapsed_ms() / 1000, code, text]))


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
