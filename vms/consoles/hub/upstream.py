"""Our end of the connection to a display: a client of RFB 3.8 that looks and never types.

Parsed without I/O: ``feed`` takes what the display sent and returns what it is to be told. Source:
RFC 6143; QEMU's ui/vnc.c sends only what ``_ENCODINGS`` names. The guest decides what is on the
screen and how large it is, so sizes are bounded and anything else ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Generator

import numpy as np

from vms.consoles.hub import encode
from vms.consoles.hub.encode import Cursor
from vms.consoles.hub.pixels import LENGTH as PIXEL_FORMAT_LENGTH
from vms.consoles.hub.pixels import OURS
from vms.consoles.hub.screen import Screen

VERSION = b"RFB 003.008\n"
_NONE = 1
_UPDATE, _COLOUR_MAP, _BELL, _CUT_TEXT = 0, 1, 2, 3
_ENCODINGS = (
    encode.RAW,
    encode.CURSOR,
    encode.DESKTOP_SIZE,
    encode.EXTENDED_DESKTOP_SIZE,
    encode.LAST_RECT,
)
_BYTES = 4  # of a pixel
_CURSOR_MAX = 512  # pixels, each way
_TEXT_MAX = 1 << 20
_NAME_MAX = 1 << 12

# Bytes wanted out, bytes given in; what it returns is of no interest.
_Steps = Generator[int, bytes, None]


class DisplayError(Exception):
    """The display says what we do not understand: close the connection."""


class DisplayClient:
    """``screen`` is None until the display has told its size; it is another object after each
    change of size."""

    def __init__(self) -> None:
        self.screen: Screen | None = None
        self.cursor: Cursor | None = None
        self.name = ""
        self.updates = 0  # FramebufferUpdates that have come whole
        self._pending = bytearray()
        self._answer = bytearray()
        self._steps = self._run()
        self._wants = next(self._steps)

    def feed(self, data: bytes) -> bytes:
        """What to send to the display. DisplayError."""
        self._pending += data
        at = 0
        while len(self._pending) - at >= self._wants:
            piece = bytes(memoryview(self._pending)[at : at + self._wants])
            at += self._wants
            self._wants = self._steps.send(piece)
        del self._pending[:at]
        answer, self._answer = bytes(self._answer), bytearray()
        return answer

    def request(self, *, incremental: bool) -> bytes:
        """A FramebufferUpdateRequest for the whole screen."""
        assert self.screen is not None  # noqa: S101 - asked only once it has one
        return struct.pack(">BBHHHH", 3, incremental, 0, 0, self.screen.width, self.screen.height)

    def _run(self) -> _Steps:
        version = yield len(VERSION)
        if version[:4] != b"RFB ":
            raise DisplayError("no RFB")
        self._answer += VERSION
        (count,) = yield 1
        offered = yield count
        if _NONE not in offered:
            raise DisplayError(f"security types {list(offered)}")
        self._answer += bytes([_NONE])
        if (yield 4) != bytes(4):
            raise DisplayError("refused")
        self._answer += b"\x01"  # shared
        start = yield 4 + PIXEL_FORMAT_LENGTH
        self._resize(*struct.unpack_from(">HH", start))
        name = yield from self._text(_NAME_MAX)
        self.name = name.decode(errors="replace")
        self._answer += struct.pack(">Bxxx", 0) + OURS.to_bytes()
        self._answer += struct.pack(f">BxH{len(_ENCODINGS)}i", 2, len(_ENCODINGS), *_ENCODINGS)
        while True:
            yield from self._message()

    def _message(self) -> _Steps:
        (kind,) = yield 1
        if kind == _UPDATE:
            yield from self._update()
        elif kind == _CUT_TEXT:
            yield 3
            yield from self._text(_TEXT_MAX)
        elif kind == _COLOUR_MAP:
            (count,) = struct.unpack(">xxxH", (yield 5))
            yield from self._skip(count * 6)
        elif kind != _BELL:
            raise DisplayError(f"message type {kind}")

    def _text(self, most: int) -> Generator[int, bytes, bytes]:
        (length,) = struct.unpack(">I", (yield 4))
        if length > most:
            raise DisplayError(f"a text of {length} bytes")
        return (yield length)

    def _skip(self, length: int) -> _Steps:
        yield length

    def _update(self) -> _Steps:
        _, count = struct.unpack(">BH", (yield 3))
        for _ in range(count):
            x, y, width, height, kind = struct.unpack(">HHHHi", (yield 12))
            if kind == encode.LAST_RECT:
                break
            yield from self._rectangle(x, y, width, height, kind)
        self.updates += 1

    def _rectangle(self, x: int, y: int, width: int, height: int, kind: int) -> _Steps:
        if kind == encode.RAW:
            yield from self._raw(x, y, width, height)
        elif kind == encode.DESKTOP_SIZE:
            self._resize(width, height)
        elif kind == encode.EXTENDED_DESKTOP_SIZE:
            (screens, *_) = yield 4
            yield from self._skip(screens * 16)
            if y == 0:  # otherwise somebody's wish was refused
                self._resize(width, height)
        elif kind == encode.CURSOR:
            yield from self._cursor(x, y, width, height)
        else:
            raise DisplayError(f"encoding {kind}")

    def _raw(self, x: int, y: int, width: int, height: int) -> _Steps:
        screen = self.screen
        if screen is None or x + width > screen.width or y + height > screen.height:
            raise DisplayError(f"a rectangle of {width} x {height} at {x}, {y}")
        if not width or not height:
            return
        # Some rows at a time: little waits to become whole.
        rows = max(1, 65536 // (width * _BYTES))
        for row in range(0, height, rows):
            some = min(rows, height - row)
            data = yield some * width * _BYTES
            screen.write(x, y + row, np.frombuffer(data, "<u4").reshape(some, width))

    def _cursor(self, x: int, y: int, width: int, height: int) -> _Steps:
        if width > _CURSOR_MAX or height > _CURSOR_MAX:
            raise DisplayError(f"a cursor of {width} x {height}")
        data = yield width * height * _BYTES
        mask = yield (width + 7) // 8 * height
        pixels = np.frombuffer(data, "<u4").reshape(height, width)
        self.cursor = Cursor(hotspot=(x, y), pixels=pixels, mask=mask)

    def _resize(self, width: int, height: int) -> None:
        if self.screen and (self.screen.width, self.screen.height) == (width, height):
            return
        try:
            self.screen = Screen(width, height)
        except ValueError as error:
            raise DisplayError(str(error)) from error
