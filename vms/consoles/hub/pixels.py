"""Pixel formats: ours, and those that viewers ask for (RFC 6143, section 7.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint32]  # 0x00RRGGBB, as ``OURS`` says
_FORM = ">BBBBHHHBBBxxx"
LENGTH = struct.calcsize(_FORM)


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    bits: int  # 8, 16 or 32
    depth: int
    big_endian: bool
    true_colour: bool
    maxima: tuple[int, int, int]  # red, green, blue
    shifts: tuple[int, int, int]

    @classmethod
    def parse(cls, data: bytes) -> PixelFormat:
        """ValueError: a format that makes no sense, or a colour map."""
        bits, depth, big, true, *rest = struct.unpack(_FORM, data)
        found = cls(
            bits=bits,
            depth=depth,
            big_endian=bool(big),
            true_colour=bool(true),
            maxima=(rest[0], rest[1], rest[2]),
            shifts=(rest[3], rest[4], rest[5]),
        )
        if bits not in (8, 16, 32) or not found.true_colour:
            raise ValueError(f"pixels of {bits} bits, true colour: {found.true_colour}")
        fits = all(
            maximum < 1 << 16 and shift + maximum.bit_length() <= bits
            for maximum, shift in zip(found.maxima, found.shifts, strict=True)
        )
        if not fits:
            raise ValueError(f"maxima {found.maxima} at {found.shifts} in {bits} bits")
        return found

    def to_bytes(self) -> bytes:
        return struct.pack(
            _FORM,
            self.bits,
            self.depth,
            self.big_endian,
            self.true_colour,
            *self.maxima,
            *self.shifts,
        )

    @property
    def is_rgb888(self) -> bool:
        """Tight then writes a pixel as three bytes, whatever the order in memory."""
        return self.bits == 32 and self.depth == 24 and self.maxima == (255, 255, 255)

    def convert(self, pixels: Pixels) -> bytes:
        """Rows of our pixels in this format."""
        if self == OURS:
            return np.ascontiguousarray(pixels).astype("<u4", copy=False).tobytes()
        out = np.zeros(pixels.shape, np.uint32)
        for ours, maximum, shift in zip((16, 8, 0), self.maxima, self.shifts, strict=True):
            value = (pixels >> np.uint32(ours)) & np.uint32(0xFF)
            if maximum != 255:
                value = (value * np.uint32(maximum) + np.uint32(127)) // np.uint32(255)
            out |= value << np.uint32(shift)
        order = ">" if self.big_endian else "<"
        return out.astype(f"{order}u{self.bits // 8}").tobytes()


OURS = PixelFormat(
    bits=32,
    depth=24,
    big_endian=False,
    true_colour=True,
    maxima=(255, 255, 255),
    shifts=(16, 8, 0),
)


def rgb(pixels: Pixels) -> NDArray[Any]:
    """As bytes R, G, B: shape (height, width, 3)."""
    little = np.ascontiguousarray(pixels).astype("<u4", copy=False)
    return little.view(np.uint8).reshape(*pixels.shape, 4)[..., 2::-1]
