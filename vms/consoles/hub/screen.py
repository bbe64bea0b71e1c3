"""What a display shows, in tiles that know when they changed last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vms.consoles.hub import encode
from vms.consoles.hub.encode import Encoding, Raw, Tight
from vms.consoles.hub.pixels import Pixels

TILE = 64  # pixels, each way
# A guest chooses the size of its screen: 8 bytes are kept for each pixel.
PIXELS_MAX = 4096 * 2304
# Of updates that others may want too. A viewer that asks for odd parts in odd formats makes many.
UPDATES_KEPT_BYTES = 8 << 20

Versions = NDArray[np.int64]  # of each tile, row by row
Wanted = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Update:
    """A FramebufferUpdate, and the tiles that it holds."""

    content: bytes
    held: Wanted


class Screen:
    """One size of a screen. ``live`` is written by whoever reads the display; ``shown`` is what
    viewers get, brought up to date by ``renew`` (which may run in a thread: what is written to
    ``live`` meanwhile is marked for the next time)."""

    def __init__(self, width: int, height: int) -> None:
        if not 0 < width * height <= PIXELS_MAX:
            raise ValueError(f"a screen of {width} x {height}")
        self.width, self.height = width, height
        self.columns = -(-width // TILE)
        self.rows = -(-height // TILE)
        self._live: Pixels = np.zeros((height, width), np.uint32)
        self._shown: Pixels = np.zeros((height, width), np.uint32)
        self._touched: Wanted = np.zeros((self.rows, self.columns), np.bool_)
        self.version = 1
        # All are newer than what anybody has seen of this screen.
        self.versions: Versions = np.ones((self.rows, self.columns), np.int64)
        self._encoded: dict[Tight, dict[int, tuple[int, bytes]]] = {}
        self._updates: dict[tuple[bytes, Encoding, int], Update] = {}
        self._updates_bytes = 0

    # --- from the display -----------------------------------------------------------------------
    def write(self, x: int, y: int, pixels: Pixels) -> None:
        """Rows of pixels at ``x``, ``y``, which lie on the screen."""
        height, width = pixels.shape
        np.bitwise_and(pixels, np.uint32(0xFFFFFF), out=self._live[y : y + height, x : x + width])
        self._touched[y // TILE : -(-(y + height) // TILE), x // TILE : -(-(x + width) // TILE)] = (
            True
        )

    @property
    def is_all_touched(self) -> bool:
        return bool(self._touched.all())

    def take_touched(self) -> Wanted:
        """The tiles that were written since the last call."""
        touched, self._touched = self._touched, np.zeros_like(self._touched)
        return touched

    # --- for viewers ----------------------------------------------------------------------------
    def renew(self, touched: Wanted) -> list[tuple[int, int]]:
        """Bring ``shown`` up to date where ``touched``; the tiles that really changed. Their
        versions are for ``commit``, in the event loop's thread."""
        changed = []
        for row, column in np.argwhere(touched).tolist():
            part = self._part(row, column)
            fresh = self._live[part].copy()
            if not np.array_equal(fresh, self._shown[part]):
                self._shown[part] = fresh
                changed.append((row, column))
        return changed

    def commit(self, changed: list[tuple[int, int]]) -> None:
        if not changed:
            return
        self.version += 1
        for row, column in changed:
            self.versions[row, column] = self.version
        self._forget_updates()

    def nothing_seen(self) -> Versions:
        return np.zeros_like(self.versions)

    def within(self, x: int, y: int, width: int, height: int) -> Wanted:
        """The tiles that a rectangle touches."""
        found = np.zeros((self.rows, self.columns), np.bool_)
        if width and height:
            found[y // TILE : -(-(y + height) // TILE), x // TILE : -(-(x + width) // TILE)] = True
        return found

    def composed(self, wanted: Wanted, encoding: Encoding, most_bytes: int) -> Update | None:
        """What ``compose`` has made for somebody else already."""
        return self._updates.get((wanted.tobytes(), encoding, most_bytes))

    def compose(self, wanted: Wanted, encoding: Encoding, most_bytes: int) -> Update:
        """One FramebufferUpdate with the tiles of ``wanted``, as many as fit in ``most_bytes`` (one
        at least). Takes its time: for a thread."""
        held = np.zeros_like(wanted)
        rectangles, size = [], 0
        for row, column in np.argwhere(wanted).tolist():
            if size >= most_bytes:
                break
            rectangles.append(self._rectangle(row, column, encoding))
            size += len(rectangles[-1])
            held[row, column] = True
        found = Update(content=encode.update(rectangles), held=held)
        if self._updates_bytes + len(found.content) > UPDATES_KEPT_BYTES:
            self._forget_updates()
        self._updates[wanted.tobytes(), encoding, most_bytes] = found
        self._updates_bytes += len(found.content)
        return found

    def _forget_updates(self) -> None:
        self._updates.clear()
        self._updates_bytes = 0

    def _rectangle(self, row: int, column: int, encoding: Encoding) -> bytes:
        part = self._part(row, column)
        if isinstance(encoding, Raw):
            return encode.rectangle(column * TILE, row * TILE, self._shown[part], encoding)
        kept = self._encoded.setdefault(encoding, {})
        index, version = row * self.columns + column, int(self.versions[row, column])
        found = kept.get(index)
        if found is None or found[0] != version:
            content = encode.rectangle(column * TILE, row * TILE, self._shown[part], encoding)
            found = kept[index] = (version, content)
        return found[1]

    def forget_encodings(self, used: set[Encoding]) -> None:
        """What nobody wants any more needs no memory."""
        for encoding in [known for known in self._encoded if known not in used]:
            del self._encoded[encoding]

    def _part(self, row: int, column: int) -> tuple[slice, slice]:
        return (
            slice(row * TILE, min((row + 1) * TILE, self.height)),
            slice(column * TILE, min((column + 1) * TILE, self.width)),
        )
