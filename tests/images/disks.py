"""Disk files, good and hostile, made for real."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

MIB = 1024 * 1024


def qemu_img(*args: object) -> None:
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True)


def raw_disk(path: Path, size: int = 8 * MIB, *, partition_sectors: int = 2048) -> Path:
    """A raw disk with an MBR of one partition, and something in it."""
    mbr = bytearray(512)
    mbr[0:3] = b"\xeb\x63\x90"
    mbr[446:462] = struct.pack(
        "<B3sB3sII", 0x80, b"\1\1\0", 0x83, b"\2\2\2", 2048, partition_sectors
    )
    mbr[510:512] = b"\x55\xaa"
    with path.open("wb") as handle:
        handle.write(mbr)
        handle.seek(2048 * 512)
        handle.write(bytes(range(256)) * 4096)
        handle.truncate(size)
    return path


def gpt_disk(path: Path, size: int = 8 * MIB) -> Path:
    """A raw disk with a protective MBR and a GPT header that names its backup at the end."""
    raw_disk(path, size)
    mbr = bytearray(path.read_bytes()[:512])
    mbr[446:510] = bytes(64)
    mbr[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 0xFFFFFFFF)
    header = bytearray(512)
    header[:8] = b"EFI PART"
    header[32:40] = struct.pack("<Q", size // 512 - 1)
    with path.open("r+b") as handle:
        handle.write(mbr + header)
    return path


def qcow2_disk(path: Path, *, compressed: bool = False, options: str = "") -> Path:
    """A real qcow2 of a raw disk."""
    source = raw_disk(path.with_suffix(".source"), 64 * MIB)
    flags = ["-c"] if compressed else []
    flags += ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *flags, source, path)
    source.unlink()
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)
    return path


def cut(path: Path, size: int) -> Path:
    with path.open("r+b") as handle:
        handle.truncate(size)
    return path
