"""A qcow2 file's own tables, read without QEMU: it must be whole and refer to nothing outside.

Offsets and names are those of docs/interop/qcow2.txt in QEMU's source.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from accounts.errors import Invalid

MAGIC = b"QFI\xfb"
HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")  # 72 bytes
HEADER_V3 = struct.Struct(">QQQII")  # 32 more
BACKING = struct.Struct(">QI")  # offset and length of its name, at 8
MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_CLUSTER_BYTES = 1 << MAX_CLUSTER_BITS
MAX_L1_BYTES = 32 * 1024 * 1024  # QEMU's QCOW_MAX_L1_SIZE
MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024  # QCOW_MAX_REFTABLE_SIZE
MAX_HEADER_EXTENSIONS = 64

INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_DATA_FILE = 1 << 2
EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_DATA_FILE = 0x44415441
EXTENSION_CRYPTO = 0x0537BE77

Words = NDArray[np.uint64]
OFFSET_MASK = np.uint64(0x00FFFFFFFFFFFE00)
COMPRESSED = np.uint64(1 << 62)


@dataclass(frozen=True, kw_only=True)
class Header:
    version: int
    backing_offset: int
    cluster_bits: int
    virtual_size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int
    header_bytes: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


def examine(path: Path, file_size: int) -> int:
    """The virtual size in bytes. Raises ``Invalid("image....")``."""
    with path.open("rb") as handle:
        header = _read_header(handle)
        _check_header(header)
        _check_extensions(handle, header, file_size)
        _check_tables(handle, header, file_size)
    return header.virtual_size


def stand_on(head: bytes, path: str) -> bytes:
    """``head``, the file's beginning with its first cluster, with ``path`` as what it stands on.
    QEMU writes that name last in this cluster. Invalid where something comes behind it."""
    header = _read_header(io.BytesIO(head))
    offset, length = BACKING.unpack_from(head, 8)
    name = path.encode()
    end = offset + max(length, len(name))
    if not offset or end > min(header.cluster_bytes, len(head)) or any(head[offset + length : end]):
        raise Invalid("image.corrupt")
    changed = bytearray(head)
    BACKING.pack_into(changed, 8, offset, len(name))
    changed[offset:end] = name.ljust(end - offset, b"\0")
    return bytes(changed)


def _read_header(handle: BinaryIO) -> Header:
    data = handle.read(HEADER_V2.size + HEADER_V3.size)
    if len(data) < HEADER_V2.size:
        raise Invalid("image.truncated")
    (
        magic,
        version,
        backing_offset,
        _backing_length,
        cluster_bits,
        virtual_size,
        crypt_method,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        snapshots_offset,
    ) = HEADER_V2.unpack_from(data)
    incompatible, header_bytes = 0, HEADER_V2.size
    if magic != MAGIC or version not in {2, 3}:
        raise Invalid("image.corrupt")
    if version == 3:
        if len(data) < HEADER_V2.size + HEADER_V3.size:
            raise Invalid("image.truncated")
        incompatible, _, _, _, header_bytes = HEADER_V3.unpack_from(data, HEADER_V2.size)
    return Header(
        version=version,
        backing_offset=backing_offset,
        cluster_bits=cluster_bits,
        virtual_size=virtual_size,
        crypt_method=crypt_method,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        refcount_offset=refcount_offset,
        refcount_clusters=refcount_clusters,
        snapshots=snapshots,
        snapshots_offset=snapshots_offset,
        incompatible=incompatible,
        header_bytes=header_bytes,
    )


def _check_header(header: Header) -> None:
    if header.backing_offset:
        raise Invalid("image.backing_file")
    if header.incompatible & INCOMPATIBLE_DATA_FILE:
        raise Invalid("image.data_file")
    if header.crypt_method:
        raise Invalid("image.encrypted")
    if header.incompatible & INCOMPATIBLE_CORRUPT:
        raise Invalid("image.corrupt")
    if not MIN_CLUSTER_BITS <= header.cluster_bits <= MAX_CLUSTER_BITS:
        raise Invalid("image.corrupt")
    if header.virtual_size == 0 or header.virtual_size % 512:
        raise Invalid("image.corrupt")
    if not HEADER_V2.size <= header.header_bytes <= header.cluster_bytes:
        raise Invalid("image.corrupt")


def _check_extensions(handle: BinaryIO, header: Header, file_size: int) -> None:
    position = header.header_bytes
    for _ in range(MAX_HEADER_EXTENSIONS):
        if position + 8 > min(header.cluster_bytes, file_size):
            return
        handle.seek(position)
        kind, length = struct.unpack(">II", handle.read(8))
        if kind == EXTENSION_END:
            return
        if kind == EXTENSION_BACKING_FORMAT:
            raise Invalid("image.backing_file")
        if kind == EXTENSION_DATA_FILE:
            raise Invalid("image.data_file")
        if kind == EXTENSION_CRYPTO:
            raise Invalid("image.encrypted")
        position += 8 + (length + 7) // 8 * 8
    raise Invalid("image.corrupt")


def _check_tables(handle: BinaryIO, header: Header, file_size: int) -> None:
    """Every table, and every cluster that a table names, begins inside the file.

    QEMU may leave the last cluster shorter than a cluster, so the missing end of that one cannot
    be told from the structure: a checksum is for that.
    """
    cluster = header.cluster_bytes
    if header.snapshots and header.snapshots_offset >= file_size:
        raise Invalid("image.truncated")
    refcount_bytes = header.refcount_clusters * cluster
    if refcount_bytes > MAX_REFCOUNT_TABLE_BYTES:
        raise Invalid("image.corrupt")
    blocks = _table(handle, header.refcount_offset, refcount_bytes // 8, cluster, file_size)
    _within(blocks & OFFSET_MASK, cluster, file_size)

    needed = -(-header.virtual_size // (cluster * (cluster // 8)))
    if header.l1_entries < needed or header.l1_entries * 8 > MAX_L1_BYTES:
        raise Invalid("image.corrupt")
    l1 = _table(handle, header.l1_offset, header.l1_entries, cluster, file_size)
    l2_offsets = np.unique(l1 & OFFSET_MASK)
    _within(l2_offsets, cluster, file_size)
    for offset in l2_offsets[l2_offsets > 0]:
        entries = _table(handle, int(offset), cluster // 8, cluster, file_size)
        _check_l2(entries, header, file_size)


def _check_l2(entries: Words, header: Header, file_size: int) -> None:
    compressed = (entries & COMPRESSED) != 0
    _within(entries[~compressed] & OFFSET_MASK, header.cluster_bytes, file_size)
    # A compressed cluster: its offset in the low x bits, then how many sectors follow the first.
    x = np.uint64(62 - (header.cluster_bits - 8))
    packed = entries[compressed] & np.uint64((1 << 62) - 1)
    if not packed.size:
        return
    first_sector = (packed & ((np.uint64(1) << x) - np.uint64(1))) >> np.uint64(9)
    last_sector = first_sector + (packed >> x)
    if int(last_sector.max()) * 512 >= file_size:
        raise Invalid("image.truncated")


def _table(handle: BinaryIO, offset: int, entries: int, cluster: int, file_size: int) -> Words:
    """``entries`` big-endian 64-bit words at ``offset``."""
    if offset % cluster:
        raise Invalid("image.corrupt")
    if offset + entries * 8 > file_size:
        raise Invalid("image.truncated")
    handle.seek(offset)
    data = handle.read(entries * 8)
    if len(data) != entries * 8:
        raise Invalid("image.truncated")
    return np.frombuffer(data, dtype=">u8").astype(np.uint64)


def _within(offsets: Words, cluster: int, file_size: int) -> None:
    if not offsets.size:
        return
    if np.any(offsets % np.uint64(cluster)):
        raise Invalid("image.corrupt")
    if int(offsets.max()) >= file_size:
        raise Invalid("image.truncated")
