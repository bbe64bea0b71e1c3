"""A second way to boot a finished disk: by UEFI, with Secure Boot or without.

A partition behind the others holds the distribution's own shim and GRUB, which Microsoft's and the
distribution's keys have signed: so a machine with those keys enrolled boots it too. shim starts the
``grubx64.efi`` beside it, which reads ``grub.cfg`` in the folder of its distribution.
"""

from __future__ import annotations

import re
from pathlib import Path

from .disk import MIB, SECTOR
from .packages import candidate_version, unpack
from .shell import BuildError, run, say

PACKAGES = ("shim-signed", "grub-efi-amd64-signed")
SIZE_MIB = 8
SYSTEM_PARTITION = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
DISTRIBUTIONS = ("debian", "ubuntu")


def inputs() -> list[str]:
    return [f"{name} {candidate_version(name)}" for name in PACKAGES]


def add(image: Path, config: str, work: Path) -> None:
    """``image``: a compressed qcow2 with a GPT, written anew. ``config``: GRUB's, for both ways."""
    say("Adding a way to boot by UEFI")
    files = work / "efi" / "files"
    unpack(list(PACKAGES), files)
    raw = work / "efi.raw"
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw])
    with raw.open("r+b") as disk:
        disk.truncate(raw.stat().st_size + SIZE_MIB * MIB)
    _fill(f"{raw}@@{_partition(raw)}", files, config, work)
    image.unlink()
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, image])
    raw.unlink()


def _partition(raw: Path) -> int:
    """In the new room at the end; returns where it begins, in bytes."""
    run(["sfdisk", "--quiet", "--relocate", "gpt-bak-std", raw])
    run(["sfdisk", "--quiet", "--append", raw], stdin=f"type={SYSTEM_PARTITION}\n".encode())
    listed = run(["sfdisk", "--dump", raw]).decode()
    found = re.search(rf"start= *(\d+),.*type={SYSTEM_PARTITION}", listed)
    if found is None:
        raise BuildError(f"sfdisk made no system partition:\n{listed}")
    return int(found[1]) * SECTOR


def _fill(partition: str, files: Path, config: str, work: Path) -> None:
    """A FAT file system, by mtools: no loop device, no mount."""
    config_file = work / "efi-grub.cfg"
    config_file.write_text(config)
    run(["mformat", "-i", partition, "-T", str((SIZE_MIB - 1) * MIB // SECTOR), "::"])
    folders = ["EFI", "EFI/BOOT", *(f"EFI/{name}" for name in DISTRIBUTIONS)]
    run(["mmd", "-i", partition, *(f"::/{folder}" for folder in folders)])
    for source, target in (
        (_one(files, "usr/lib/shim/shimx64.efi.signed*"), "EFI/BOOT/BOOTX64.EFI"),
        (_one(files, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"), "EFI/BOOT/grubx64.efi"),
        *((config_file, f"EFI/{name}/grub.cfg") for name in DISTRIBUTIONS),
    ):
        run(["mcopy", "-i", partition, source, f"::/{target}"])


def _one(files: Path, pattern: str) -> Path:
    """Ubuntu has two of shim: ``.latest`` sorts before ``.previous``."""
    found = sorted(files.glob(pattern))
    if not found:
        raise BuildError(f"{' and '.join(PACKAGES)} hold no {pattern}.")
    return found[0]
