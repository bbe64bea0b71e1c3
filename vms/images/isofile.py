"""An ISO 9660 disc: only ever shown to a guest as a CD-ROM, in the format ``raw``.

ECMA-119, section 8.4: the primary volume descriptor lies in sector 16 of 2,048 bytes.
"""

from __future__ import annotations

import struct

from accounts.errors import Invalid

SECTOR = 2048
DESCRIPTOR = 16 * SECTOR
PRIMARY = 1
IDENTIFIER = b"CD001"
# The last sectors of a disc may be padding that a vendor's tool left out.
SLACK_BYTES = 300 * 1024


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
