"""What a serial line has said last. Pure: bytes in, bytes out."""

from __future__ import annotations

MOST_BYTES = 1 << 20
MOST_LINES = 5000
# How many bytes must agree before two pieces are taken for the same text.
SURE_BYTES = 32
# At the seam fewer do: a few bytes that come twice are better than a few that are lost.
LIKELY_BYTES = 12
TAIL_BYTES = 256


class Ring:
    """The last ``MOST_LINES`` lines or ``MOST_BYTES``, whichever is less."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_lines: int = MOST_LINES) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._kept = bytearray()
        self._cut = False  # something was said before what is kept

    def add(self, data: bytes) -> None:
        """Trimmed now and then, so it holds at most twice ``most_bytes``."""
        self._kept += data[-self._most_bytes :]
        self._cut |= len(data) > self._most_bytes
        if len(self._kept) > 2 * self._most_bytes:
            del self._kept[: -self._most_bytes]
            self._cut = True

    def content(self) -> bytes:
        """What somebody who comes now is shown. Begins with a whole line where it was cut."""
        begin = max(len(self._kept) - self._most_bytes, 0)
        cut = self._cut or begin > 0
        end = len(self._kept)
        for _ in range(self._most_lines + 1):
            end = self._kept.rfind(b"\n", begin, end)
            if end < 0:
                break
        else:
            begin, cut = end + 1, False
        if cut:
            line = self._kept.find(b"\n", begin)
            begin = line + 1 if line >= 0 else begin
        return bytes(self._kept[begin:])

    def tail(self) -> bytes:
        return bytes(self._kept[-TAIL_BYTES:])


def missed(log: bytes, tail: bytes, live: bytes) -> bytes:
    """What the host's log has between ``tail``, seen before, and ``live``, which came since.

    The log is written by another process, so its end may lie before or behind the end of
    ``live``. Where ``tail`` is not found (it is too old), nothing is put in its place.
    """
    begin = 0
    if tail:
        found = log.rfind(tail)
        if found < 0:
            return b""
        begin = found + len(tail)
    end = len(log)
    if len(live) >= SURE_BYTES and (found := log.find(live[:SURE_BYTES], begin)) >= 0:
        return log[begin:found]
    for length in range(min(len(live), SURE_BYTES, end - begin), LIKELY_BYTES - 1, -1):
        if log.endswith(live[:length]):
            end -= length
            break
    return log[begin:end]
