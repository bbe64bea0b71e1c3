"""Rectangles of RFB, each complete in itself: a decoder needs nothing from before it.

Tight (rfbproto, section 7.7.6) keeps zlib streams from one rectangle to the next; every rectangle
here resets the stream that it uses, so that the same bytes serve viewers who joined at any time.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vms.consoles.hub.pixels import PixelFormat, Pixels, rgb

RAW = 0
TIGHT = 7
CURSOR = -239
DESKTOP_SIZE = -223
EXTENDED_DESKTOP_SIZE = -308
LAST_RECT = -224
QUALITY_LEVELS = range(-32, -22)  # JPEG quality 0 to 9; who names none wants no JPEG

_ZLIB_LEVEL = 4
_FILL, _JPEG = 0x80, 0x90
_EXPLICIT_FILTER = 0x40
_PALETTE_FILTER = 1
_COPY_STREAM, _MONO_STREAM, _PALETTE_STREAM = 0, 1, 2
_UNCOMPRESSED_BELOW = 12  # shorter data goes as it is, without a length
_SAMPLE_STEP = 7
PALETTE_MAX = 256
JPEG_FROM_PIXELS = 512  # smaller ones are not worth its tables


@dataclass(frozen=True)
class Tight:
    """How photo-like tiles look: JPEG of this quality, or without loss (0)."""

    jpeg_quality: int


@dataclass(frozen=True)
class Raw:
    """For who does not know Tight, or wants pixels that Tight would write in another way."""

    pixel_format: PixelFormat


Encoding = Tight | Raw
LOSSLESS = Tight(0)
_CLASSES = ((3, Tight(40)), (7, Tight(75)), (9, Tight(92)))


def tight_for(quality_level: int | None) -> Tight:
    """Few classes, so that viewers share: of RFB's levels 0 to 9, None: no JPEG."""
    if quality_level is None:
        return LOSSLESS
    return next(found for most, found in _CLASSES if quality_level <= most)


def head(x: int, y: int, width: int, height: int, encoding: int) -> bytes:
    return struct.pack(">HHHHi", x, y, width, height, encoding)


def update(rectangles: list[bytes]) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def rectangle(x: int, y: int, pixels: Pixels, encoding: Encoding) -> bytes:
    height, width = pixels.shape
    if isinstance(encoding, Raw):
        return head(x, y, width, height, RAW) + encoding.pixel_format.convert(pixels)
    return head(x, y, width, height, TIGHT) + tight(pixels, encoding)


def tight(pixels: Pixels, how: Tight) -> bytes:
    """The body of a Tight rectangle."""
    flat = pixels.ravel()
    differs = flat != flat[0]
    second = int(differs.argmax())
    if second == 0:  # all are as the first
        return bytes([_FILL]) + rgb(flat[:1].reshape(1, 1)).tobytes()
    if (flat[differs] == flat[second]).all():
        return _palette(flat[[0, second]], differs.reshape(pixels.shape))
    if len(np.unique(flat[::_SAMPLE_STEP])) <= PALETTE_MAX:
        colours, indices = np.unique(flat, return_inverse=True)
        if len(colours) <= PALETTE_MAX:
            return _palette(colours, indices.reshape(pixels.shape))
    if how.jpeg_quality and flat.size >= JPEG_FROM_PIXELS:
        return _jpeg(pixels, how.jpeg_quality)
    return bytes([_control(_COPY_STREAM)]) + _compressed(rgb(pixels).tobytes())


def _control(stream: int) -> int:
    return stream << 4 | 1 << stream  # the low bits reset the stream


def _palette(colours: Pixels, indices: NDArray[Any]) -> bytes:
    if len(colours) == 2:
        stream = _MONO_STREAM
        data = np.packbits(indices.astype(np.uint8), axis=1).tobytes()
    else:
        stream = _PALETTE_STREAM
        data = indices.astype(np.uint8).tobytes()
    palette = rgb(colours.reshape(1, -1)).tobytes()
    start = bytes([_EXPLICIT_FILTER | _control(stream), _PALETTE_FILTER, len(colours) - 1])
    return start + palette + _compressed(data)


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(rgb(pixels)))
    picture.save(out, "JPEG", quality=quality)
    data = out.getvalue()
    return bytes([_JPEG]) + compact_length(len(data)) + data


def _compressed(data: bytes) -> bytes:
    if len(data) < _UNCOMPRESSED_BELOW:
        return data
    # A sync flush, as encoders end a rectangle whose stream goes on.
    packer = zlib.compressobj(_ZLIB_LEVEL)
    packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    return compact_length(len(packed)) + packed


def compact_length(length: int) -> bytes:
    """Tight's length: 7 bits, 7 bits, 8 bits, the lowest first."""
    if length < 1 << 7:
        return bytes([length])
    if length < 1 << 14:
        return bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The pointer's shape as the display tells it: pixels, and one bit each for what shows."""

    hotspot: tuple[int, int]
    pixels: Pixels
    mask: bytes  # rows of whole bytes

    def rectangle(self, pixel_format: PixelFormat) -> bytes:
        height, width = self.pixels.shape
        shape = pixel_format.convert(self.pixels) + self.mask
        return head(*self.hotspot, width, height, CURSOR) + shape
