"""One viewer: the server's half of RFB 3.8, without I/O.

Fed with what ``rfb.ClientFilter`` passed of a viewer: whole messages, of the kinds that a viewer
may send and no others. It tells what the viewer wants; ``room`` composes the answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vms.consoles import rfb
from vms.consoles.hub import encode
from vms.consoles.hub.encode import Cursor, Encoding, Raw
from vms.consoles.hub.pixels import LENGTH as PIXEL_FORMAT_LENGTH
from vms.consoles.hub.pixels import OURS, PixelFormat
from vms.consoles.hub.screen import Screen, Versions, Wanted

VERSION = b"RFB 003.008\n"
_HEADS = {rfb.SET_PIXEL_FORMAT: 20, rfb.FRAMEBUFFER_UPDATE_REQUEST: 10}


class SizeError(Exception):
    """The screen has another size now, which this client cannot be told: it must come again."""


@dataclass
class Request:
    """A FramebufferUpdateRequest that is not answered."""

    tiles: Wanted
    incremental: bool


class Viewer:
    def __init__(self, screen: Screen, *, name: str) -> None:
        self._screen = screen  # as this client knows it
        self._seen: Versions = screen.nothing_seen()
        self._name = name
        self._phase = 0
        self._minor = 8
        self._pending = bytearray()
        self._pixel_format = OURS
        self._encodings: frozenset[int] = frozenset()
        self._cursor: Cursor | None = None
        self.request: Request | None = None

    # --- what the client says -------------------------------------------------------------------
    def hello(self) -> bytes:
        return VERSION

    def feed(self, data: bytes) -> bytes:
        """What to answer at once. rfb.ProtocolError."""
        self._pending += data
        answer = bytearray()
        while (length := self._next_length()) and len(self._pending) >= length:
            message = bytes(self._pending[:length])
            del self._pending[:length]
            answer += self._take(message)
        return bytes(answer)

    def _next_length(self) -> int:
        if self._phase < 3:
            return (rfb.VERSION_LENGTH, 1, 1)[self._phase]
        if not self._pending:
            return 0
        kind = self._pending[0]
        if kind == rfb.SET_ENCODINGS:
            if len(self._pending) < 4:
                return 0
            (count,) = struct.unpack_from(">H", self._pending, 2)
            return 4 + 4 * int(count)
        if kind == rfb.FENCE:
            return 0 if len(self._pending) < 9 else 9 + self._pending[8]
        if kind not in _HEADS:
            raise rfb.ProtocolError(f"message type {kind} of a viewer")
        return _HEADS[kind]

    def _take(self, message: bytes) -> bytes:
        self._phase += 1
        if self._phase == 1:
            self._minor = int(message[8:11])
            return bytes([1, rfb.SECURITY_NONE])
        if self._phase == 2:
            if message[0] != rfb.SECURITY_NONE:
                raise rfb.ProtocolError(f"security type {message[0]}")
            return bytes(4) if self._minor >= 8 else b""
        if self._phase == 3:
            return self._server_init()
        if message[0] == rfb.SET_PIXEL_FORMAT:
            self._set_pixel_format(message[4 : 4 + PIXEL_FORMAT_LENGTH])
        elif message[0] == rfb.SET_ENCODINGS:
            count = len(message) // 4 - 1
            self._encodings = frozenset(struct.unpack(f">{count}i", message[4:]))
            self._cursor = None
        elif message[0] == rfb.FRAMEBUFFER_UPDATE_REQUEST:
            self._set_request(*struct.unpack(">xBHHHH", message))
        return b""  # a fence asks for an answer only from who has offered fences

    def _server_init(self) -> bytes:
        name = self._name.encode()
        size = struct.pack(">HH", self._screen.width, self._screen.height)
        return size + OURS.to_bytes() + struct.pack(">I", len(name)) + name

    def _set_pixel_format(self, data: bytes) -> None:
        try:
            self._pixel_format = PixelFormat.parse(data)
        except ValueError as error:
            raise rfb.ProtocolError(str(error)) from error
        self._cursor = None

    def _set_request(self, incremental: int, x: int, y: int, width: int, height: int) -> None:
        tiles = self._screen.within(x, y, width, height)
        if not incremental:
            self._seen[tiles] = 0
        if self.request is not None:
            tiles |= self.request.tiles
        self.request = Request(tiles=tiles, incremental=bool(incremental))

    # --- what the client gets -------------------------------------------------------------------
    @property
    def size(self) -> tuple[int, int]:
        return self._screen.width, self._screen.height

    @property
    def encoding(self) -> Encoding:
        if encode.TIGHT not in self._encodings or not self._pixel_format.is_rgb888:
            return Raw(self._pixel_format)
        levels = [level for level in encode.QUALITY_LEVELS if level in self._encodings]
        best = max(levels) - encode.QUALITY_LEVELS.start if levels else None
        return encode.tight_for(best)

    def follow(self, screen: Screen) -> bytes:
        """The screen has this size now: the update that says so. SizeError."""
        if screen is self._screen:
            return b""
        size = screen.width, screen.height
        if size == (self._screen.width, self._screen.height):
            told = b""
        elif encode.DESKTOP_SIZE in self._encodings:
            told = encode.update([encode.head(0, 0, *size, encode.DESKTOP_SIZE)])
        elif encode.EXTENDED_DESKTOP_SIZE in self._encodings:
            body = struct.pack(">BxxxIHHHHI", 1, 0, 0, 0, *size, 0)
            head = encode.head(0, 0, *size, encode.EXTENDED_DESKTOP_SIZE)
            told = encode.update([head + body])
        else:
            raise SizeError
        self._screen, self._seen = screen, screen.nothing_seen()
        if told:
            self.request = None  # it was for the old size, and is answered by this
        elif self.request is not None:
            self.request.tiles = screen.within(0, 0, *size)
        return told

    def cursor_update(self, cursor: Cursor | None) -> bytes:
        """The pointer's shape, when it is another one and the client draws it."""
        if cursor is None or cursor is self._cursor or encode.CURSOR not in self._encodings:
            return b""
        self._cursor = cursor
        self.request = None
        return encode.update([cursor.rectangle(self._pixel_format)])

    def wanted(self) -> Wanted | None:
        """The tiles that the client asked for and has not seen as they are. None: nothing new."""
        if self.request is None:
            return None
        tiles: Wanted = self.request.tiles & (self._screen.versions > self._seen)
        return tiles if tiles.any() else None

    def sent(self, held: Wanted) -> None:
        self._seen[held] = self._screen.versions[held]
        self.request = None
