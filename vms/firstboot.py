"""What a guest says of its first boot, on a virtio port. Written by whoever is root in there.

One JSON line, repeated every 10 s: ``{"kvmweb": 1, "status": "done"|"error", "detail": "..."}``
(``vms/firstboot.sh`` writes it). Whatever else comes is dropped, and a guest that sends more than
a report can be is not listened to any more.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

CHANNEL = "org.kvmweb.firstboot.0"
LINE_MAX_BYTES = 8 * 1024
DETAIL_MAX_CHARS = 4000
# 60 repetitions of the longest line: who sends more is not our script.
BUDGET_BYTES = 60 * LINE_MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class Report:
    failed: bool
    detail: str


@dataclass
class _Heard:
    line: bytes = b""
    overlong: bool = False  # dropped up to the next line break
    received: int = 0


@dataclass
class Reports:
    """The unfinished lines of guests. Thread-safe; at most 8 KiB for each guest."""

    _heard: dict[UUID, _Heard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def feed(self, uuid: UUID, data: bytes) -> Report | None:
        """The first whole report in what came so far."""
        with self._lock:
            heard = self._heard.setdefault(uuid, _Heard())
            heard.received += len(data)
            *whole, rest = data.split(b"\n")
            found: Report | None = None
            for part in whole:
                line = b"" if heard.overlong else heard.line + part
                heard.line, heard.overlong = b"", False
                found = found or parse(line)
            heard.line += rest
            if len(heard.line) > LINE_MAX_BYTES:
                heard.line, heard.overlong = b"", True
            return found

    def is_spent(self, uuid: UUID) -> bool:
        with self._lock:
            heard = self._heard.get(uuid)
            return heard is not None and heard.received > BUDGET_BYTES

    def forget(self, uuid: UUID) -> None:
        with self._lock:
            self._heard.pop(uuid, None)


def parse(line: bytes) -> Report | None:
    """A report, or None for anything else."""
    if not line.strip() or len(line) > LINE_MAX_BYTES:
        return None
    try:
        said: Any = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("kvmweb") != 1:
        return None
    status, detail = said.get("status"), said.get("detail", "")
    if status not in ("done", "error") or not isinstance(detail, str):
        return None
    return Report(failed=status == "error", detail=_printable(detail)[:DETAIL_MAX_CHARS])


def _printable(text: str) -> str:
    """Without control and formatting characters (escape sequences, right-to-left marks)."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join("".join(c for c in line if c.isprintable()) for line in lines)
