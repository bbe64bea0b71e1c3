"""An ISO 9660 disc: shown to a guest as a CD-ROM, in the format ``raw``; single files of it are
read here, within bounds.

ECMA-119, section 8.4: the primary volume descriptor lies in sector 16 of 2,048 bytes; 9.1: the
records of a directory. Longer names are Rock Ridge's (IEEE P1282, "NM").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from accounts.errors import Invalid

SECTOR = 2048
DESCRIPTOR = 16 * SECTOR
PRIMARY = 1
IDENTIFIER = b"CD001"
# The last sectors of a disc may be padding that a vendor's tool left out.
SLACK_BYTES = 300 * 1024
ROOT_RECORD = 156
RECORD_HEAD = 33
DIRECTORY, GOES_ON = 0x02, 0x80  # flags of a record
DIRECTORY_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where a file or a directory lies on a disc, which claims it."""

    offset: int
    size: int
    flags: int = DIRECTORY

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & DIRECTORY)


def is_iso(head: bytes) -> bool:
    return head[DESCRIPTOR + 1 : DESCRIPTOR + 6] == IDENTIFIER


def examine(head: bytes, file_size: int) -> int:
    """The disc's size, which is the file's. Raises ``Invalid("image.truncated")``."""
    descriptor = head[DESCRIPTOR : DESCRIPTOR + SECTOR]
    if len(descriptor) < SECTOR or descriptor[0] != PRIMARY:
        raise Invalid("image.corrupt")
    (blocks,) = struct.unpack_from("<I", descriptor, 80)
    (block_bytes,) = struct.unpack_from("<H", descriptor, 128)
    if block_bytes != SECTOR or not blocks:
        raise Invalid("image.corrupt")
    if blocks * block_bytes > file_size + SLACK_BYTES:
        raise Invalid("image.truncated")
    return file_size


def find(disc: BinaryIO, *path: str, max_bytes: int) -> Extent | None:
    """The file of that path, upper or lower case. None: there is none, or it has no bytes, more
    than ``max_bytes``, or lies beyond the disc's end."""
    end = disc.seek(0, 2)
    disc.seek(DESCRIPTOR)
    descriptor = disc.read(SECTOR)
    if (
        len(descriptor) < SECTOR
        or descriptor[0] != PRIMARY
        or not descriptor.startswith(IDENTIFIER, 1)
    ):
        return None
    here = _extent(descriptor[ROOT_RECORD:])
    for name in path:
        if not here.is_directory or here.size > DIRECTORY_MAX_BYTES or here.offset >= end:
            return None
        disc.seek(here.offset)
        inside = _records(disc.read(here.size))
        found = next((one for called, one in inside if called.lower() == name.lower()), None)
        if found is None:
            return None
        here = found
    fits = 0 < here.size <= max_bytes and here.offset + here.size <= end
    return here if fits and not here.flags & (DIRECTORY | GOES_ON) else None


def _records(content: bytes) -> Iterator[tuple[str, Extent]]:
    """Each with its name. A record does not cross a sector; a zero fills up the rest of one."""
    at = 0
    while at < len(content):
        length = content[at]
        record = content[at : at + length]
        if length == 0:
            at = (at // SECTOR + 1) * SECTOR
            continue
        at += length
        if len(record) <= RECORD_HEAD or len(record) < RECORD_HEAD + record[RECORD_HEAD - 1]:
            continue
        yield _name(record), _extent(record)


def _extent(record: bytes) -> Extent:
    (block,) = struct.unpack_from("<I", record, 2)
    (size,) = struct.unpack_from("<I", record, 10)
    return Extent(offset=block * SECTOR, size=size, flags=record[25])


def _name(record: bytes) -> str:
    end = RECORD_HEAD + record[RECORD_HEAD - 1]
    plain = record[RECORD_HEAD:end].split(b";")[0].rstrip(b".")
    at = end + end % 2  # the part for other systems begins at an even place
    while at + 5 <= len(record) and (length := record[at + 2]) >= 4:
        if record[at : at + 2] == b"NM" and record[at + 4] == 0:
            plain = record[at + 5 : at + length]
            break
        at += length
    return plain.decode("ascii", "replace")
