"""Both ends of RFB for tests, written from RFC 6143 and not with the product's code.

``Display`` is a machine's display: it shows a numpy picture, sends Raw rectangles as QEMU does.
``Client`` is a viewer: it decodes Raw and Tight (with the zlib streams that a decoder keeps) into a
picture of its own, which tests compare with what the display shows.
"""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint32]  # 0x00RRGGBB
TIGHT, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, CURSOR = 7, -223, -308, -239
QUALITY_6 = -26
SERVER_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Display:
    """The display's end of a socket pair, served in the loop that runs."""

    def __init__(self, width: int = 200, height: int = 150) -> None:
        self.picture: Picture = np.zeros((height, width), np.uint32)
        self.requests = 0
        self.connections = 0
        self.got: list[bytes] = []  # messages that are no requests
        self.formats: list[bytes] = []
        self._changed = asyncio.Event()
        self._dirty: list[tuple[int, int, int, int]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> socket.socket:
        """Our side's socket, as libvirt would give it."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        self.connections += 1
        self._writers.append(writer)
        self._tasks.append(asyncio.ensure_future(self.serve(reader, writer)))
        return ours

    def draw(self, x: int, y: int, pixels: Picture) -> None:
        height, width = pixels.shape
        self.picture[y : y + height, x : x + width] = pixels
        self._dirty.append((x, y, width, height))
        self._changed.set()

    async def resize(self, width: int, height: int) -> None:
        """As QEMU: told at once, then everything is new."""
        self.picture = np.full((height, width), 0x224466, np.uint32)
        for writer in self._writers:
            writer.write(struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, DESKTOP_SIZE))
        self._dirty = [(0, 0, width, height)]
        self._changed.set()

    async def cursor(self, width: int, height: int) -> None:
        body = struct.pack(">BxHHHHHi", 0, 1, 1, 2, width, height, CURSOR)
        body += b"\x11\x22\x33\0" * (width * height) + b"\xff" * ((width + 7) // 8 * height)
        for writer in self._writers:
            writer.write(body)

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        writer.write(b"RFB 003.008\n")
        assert await reader.readexactly(12) == b"RFB 003.008\n"
        writer.write(b"\x01\x01")
        assert await reader.readexactly(1) == b"\x01"
        writer.write(bytes(4))
        assert await reader.readexactly(1) == b"\x01", "not shared"
        height, width = self.picture.shape
        writer.write(struct.pack(">HH", width, height) + SERVER_FORMAT)
        writer.write(struct.pack(">I", 4) + b"QEMU")
        while True:
            (kind,) = await reader.readexactly(1)
            if kind == 0:
                self.formats.append((await reader.readexactly(19))[3:])
            elif kind == 2:
                (count,) = struct.unpack(">xH", await reader.readexactly(3))
                await reader.readexactly(4 * count)
            elif kind == 3:
                self.requests += 1
                incremental, *area = struct.unpack(">BHHHH", await reader.readexactly(9))
                await self._answer(writer, bool(incremental), tuple(area))
            else:
                self.got.append(bytes([kind]))

    async def _answer(
        self, writer: asyncio.StreamWriter, incremental: bool, area: tuple[int, ...]
    ) -> None:
        if not incremental:
            self._dirty = [(area[0], area[1], area[2], area[3])]
        while not self._dirty:
            self._changed.clear()
            await self._changed.wait()
        dirty, self._dirty = self._dirty, []
        writer.write(struct.pack(">BxH", 0, len(dirty)))
        for x, y, width, height in dirty:
            writer.write(struct.pack(">HHHHi", x, y, width, height, 0))
            part = self.picture[y : y + height, x : x + width]
            # QEMU leaves something in the byte that is not used.
            writer.write((part | np.uint32(0x5A000000)).astype("<u4").tobytes())
        await writer.drain()


class Client:
    """A viewer over anything that reads and writes bytes, asking like noVNC does."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        *,
        encodings: tuple[int, ...] = (TIGHT, QUALITY_6, DESKTOP_SIZE, CURSOR),
        pixel_format: bytes = b"",
        keep_asking: bool = True,
    ) -> None:
        self._read, self._write = read, write
        self._encodings, self._format = encodings, pixel_format
        self._keep_asking = keep_asking
        self._pending = bytearray()
        self._streams: list[Any] = [zlib.decompressobj() for _ in range(4)]
        self.picture: Picture = np.zeros((0, 0), np.uint32)
        self.name = ""
        self.updates = 0
        self.rectangles: list[tuple[str, int, int, int, int]] = []
        self.bytes = 0
        self.cursor: tuple[int, int, int, int] | None = None

    async def run(self) -> None:
        """Until the stream ends."""
        try:
            await self.start()
            while True:
                await self.message()
        except EOFError:
            return

    async def start(self) -> None:
        assert await self._take(12) == b"RFB 003.008\n"
        await self._write(b"RFB 003.008\n")
        (count,) = await self._take(1)
        assert 1 in await self._take(count)
        await self._write(b"\x01")
        assert await self._take(4) == bytes(4)
        await self._write(b"\x00")  # alone, if it could choose
        width, height = struct.unpack(">HH", await self._take(4))
        assert await self._take(16) == SERVER_FORMAT
        (length,) = struct.unpack(">I", await self._take(4))
        self.name = (await self._take(length)).decode()
        self.picture = np.zeros((height, width), np.uint32)
        if self._format:
            await self._write(b"\x00\0\0\0" + self._format)
        count = len(self._encodings)
        await self._write(struct.pack(f">BxH{count}i", 2, count, *self._encodings))
        await self.ask(incremental=False)

    async def ask(self, *, incremental: bool) -> None:
        height, width = self.picture.shape
        await self._write(struct.pack(">BBHHHH", 3, incremental, 0, 0, width, height))

    async def message(self) -> None:
        kind, count = struct.unpack(">BxH", await self._take(4))
        assert kind == 0, f"message type {kind}"
        for _ in range(count):
            await self._rectangle(*struct.unpack(">HHHHi", await self._take(12)))
        self.updates += 1
        if self._keep_asking:
            await self.ask(incremental=True)

    async def _rectangle(self, x: int, y: int, width: int, height: int, kind: int) -> None:
        if kind == DESKTOP_SIZE:
            self.picture = np.zeros((height, width), np.uint32)
            return
        if kind == EXTENDED_DESKTOP_SIZE:
            (screens,) = struct.unpack(">Bxxx", await self._take(4))
            await self._take(16 * screens)
            self.picture = np.zeros((height, width), np.uint32)
            return
        if kind == CURSOR:
            await self._take(width * height * 4 + (width + 7) // 8 * height)
            self.cursor = (x, y, width, height)
            return
        assert x + width <= self.picture.shape[1]
        assert y + height <= self.picture.shape[0]
        how, pixels = await (self._raw if kind == 0 else self._tight)(width, height)
        self.rectangles.append((how, x, y, width, height))
        self.picture[y : y + height, x : x + width] = pixels

    async def _raw(self, width: int, height: int) -> tuple[str, Picture]:
        if not self._format:
            data = np.frombuffer(await self._take(width * height * 4), "<u4")
            return "raw", data.reshape(height, width).astype(np.uint32)
        bits, _, big, _, *rest = struct.unpack(">BBBBHHHBBBxxx", self._format)
        data = np.frombuffer(
            await self._take(width * height * bits // 8), f"{'>' if big else '<'}u{bits // 8}"
        ).astype(np.uint32)
        out = np.zeros(data.shape, np.uint32)
        for maximum, shift, to in zip(rest[:3], rest[3:], (16, 8, 0), strict=True):
            out |= ((data >> shift & maximum) * 255 // maximum) << to
        return "raw", out.reshape(height, width)

    async def _tight(self, width: int, height: int) -> tuple[str, Picture]:
        (control,) = await self._take(1)
        for stream in range(4):
            if control >> stream & 1:
                self._streams[stream] = zlib.decompressobj()
        control >>= 4
        if control == 8:
            colour = _pixels(await self._take(3))[0]
            return "fill", np.full((height, width), colour, np.uint32)
        if control == 9:
            data = await self._take(await self._length())
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                assert picture.size == (width, height)
                return "jpeg", _pixels(picture.convert("RGB").tobytes()).reshape(height, width)
        assert control < 8, f"Tight control {control}"
        stream = control & 3
        what = (await self._take(1))[0] if control & 4 else 0
        if what == 0:
            data = await self._inflated(stream, width * height * 3)
            return "copy", _pixels(data).reshape(height, width)
        assert what == 1, f"Tight filter {what}"
        colours = (await self._take(1))[0] + 1
        palette = _pixels(await self._take(colours * 3))
        if colours == 2:
            row = (width + 7) // 8
            bits = np.frombuffer(await self._inflated(stream, row * height), np.uint8)
            indices = np.unpackbits(bits.reshape(height, row), axis=1)[:, :width]
            return "mono", palette[indices]
        indices = np.frombuffer(await self._inflated(stream, width * height), np.uint8)
        return "palette", palette[indices.reshape(height, width)]

    async def _inflated(self, stream: int, size: int) -> bytes:
        if size < 12:
            return await self._take(size)
        data: bytes = self._streams[stream].decompress(await self._take(await self._length()))
        assert len(data) == size, f"{len(data)} bytes of {size}"
        return data

    async def _length(self) -> int:
        length = 0
        for shift in (0, 7, 14):
            (byte,) = await self._take(1)
            length |= (byte if shift == 14 else byte & 0x7F) << shift
            if not byte & 0x80 or shift == 14:
                break
        return length

    async def _take(self, count: int) -> bytes:
        while len(self._pending) < count:
            data = await self._read()
            if not data:
                raise EOFError
            self.bytes += len(data)
            self._pending += data
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken


def _pixels(data: bytes) -> Picture:
    red, green, blue = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.uint32).T
    return red << 16 | green << 8 | blue
