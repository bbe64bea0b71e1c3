"""A raw disk is only known by what it is not: it must have a boot sector and be whole."""

from __future__ import annotations

import struct
from pathlib import Path

from accounts.errors import Invalid

SECTOR = 512
BOOT_SIGNATURE = b"\x55\xaa"  # bytes 510 and 511 of the first sector
PARTITION_TABLE = 446
PROTECTIVE_GPT = 0xEE
GPT_SIGNATURE = b"EFI PART"

# Formats that QEMU would probe for and that oslo's inspector does not know, by first bytes.
_REFUSED_HEADS = {
    b"COWD": "VMDK",
    b"KDMV": "VMDK",
    b"# Disk Descript": "VMDK",
    b"QED\0": "QED",
    b"Bochs Virtual HD Image": "BOCHS",
    b"#!/bin/sh\n#V2.0 Format": "CLOOP",
    b"WithoutFreeSpace": "PARALLELS",
    b"WithouFreSpacExt": "PARALLELS",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
    b"LUKS\xba\xbe": "LUKS",
}
_REFUSED_TAILS = {b"conectix": "VHD", b"koly": "DMG"}  # in the last sector
_COMPRESSED_HEADS = {
    b"\xfd7zXZ\0": "xz",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_TAR_MAGIC_OFFSET = 257


def refuse_known_mistakes(head: bytes) -> None:
    """What people send by mistake, named, so that they know what to do."""
    for start, kind in _COMPRESSED_HEADS.items():
        if head.startswith(start):
            raise Invalid("image.compressed", kind=kind)
    if head[_TAR_MAGIC_OFFSET : _TAR_MAGIC_OFFSET + 5] == b"ustar":
        raise Invalid("image.compressed", kind="tar")  # an OVA is one, too
    if head[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise Invalid("image.web_page")
    for start, name in _REFUSED_HEADS.items():
        if head.startswith(start):
            raise Invalid("image.format_refused", format=name)


def examine(path: Path, head: bytes, file_size: int) -> int:
    """The virtual size, which is the file's. Raises ``Invalid("image....")``."""
    if len(head) < SECTOR or head[510:512] != BOOT_SIGNATURE:
        raise Invalid("image.not_a_disk")
    with path.open("rb") as handle:
        handle.seek(max(0, file_size - SECTOR))
        tail = handle.read(SECTOR)
    for start, name in _REFUSED_TAILS.items():
        if tail.startswith(start):
            raise Invalid("image.format_refused", format=name)
    if file_size % SECTOR:
        raise Invalid("image.truncated")
    if _end_of_partitions(head) > file_size or _end_of_gpt(head) > file_size:
        raise Invalid("image.truncated")
    if not any(head[:PARTITION_TABLE]) and not any(head[PARTITION_TABLE:510]):
        raise Invalid("image.not_a_disk")
    return file_size


def _end_of_partitions(head: bytes) -> int:
    """Where the last partition of the MBR ends, in bytes."""
    end = 0
    for index in range(4):
        entry = head[PARTITION_TABLE + 16 * index : PARTITION_TABLE + 16 * (index + 1)]
        kind, start, sectors = entry[4], *struct.unpack("<II", entry[8:16])
        if kind and kind != PROTECTIVE_GPT:  # the protective one may claim 2 TiB
            end = max(end, (start + sectors) * SECTOR)
    return end


def _end_of_gpt(head: bytes) -> int:
    """Where the backup GPT header ends, in bytes; 0 without a GPT (UEFI 2.10, table 5-5)."""
    header = head[SECTOR : 2 * SECTOR]
    if not header.startswith(GPT_SIGNATURE):
        return 0
    (alternate_lba,) = struct.unpack("<Q", header[32:40])
    return int(alternate_lba + 1) * SECTOR
