"""A bootable disk image of a folder: GPT, GRUB for BIOS, one file system; no loop devices."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from .shell import BuildError, run, say

SECTOR = 512
MIB = 1024 * 1024
GRUB = Path("/usr/lib/grub/i386-pc")
CORE_START = 2048  # sector: the BIOS boot partition, 1 MiB long
ROOT_START = 4096  # sector
TAIL_MIB = 1  # the backup partition table, and what alignment takes
GRUB_MODULES = "biosdisk part_gpt ext2 normal linux search search_label serial terminal echo test"

# Only what every GRUB and kernel of the last ten years reads: newer mke2fs would add more.
MKE2FS_CONF = """\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
blocksize = 4096
inode_size = 256
inode_ratio = 16384
reserved_ratio = 1.0
[fs_types]
ext3 = {
features = has_journal
}
ext4 = {
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
"""


@dataclass(frozen=True)
class Disk:
    """What to make. ``folder`` holds /boot/grub/grub.cfg among the rest."""

    folder: Path
    label: str
    file_system: str  # ext3 | ext4
    size_mib: int


def make(disk: Disk, out: Path, work: Path) -> None:
    """Write a compressed qcow2 to ``out``."""
    raw = work / "disk.raw"
    raw.unlink(missing_ok=True)
    with raw.open("wb") as image:
        image.truncate(disk.size_mib * MIB)
    _partition(raw)
    say(f"Writing the {disk.file_system} file system")
    _file_system(disk, raw, work)
    _install_grub(raw, work)
    say("Compressing the image")
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, out])
    raw.unlink()


def _partition(raw: Path) -> None:
    script = (
        "label: gpt\n"
        f"start={CORE_START}, size={ROOT_START - CORE_START}, "
        "type=21686148-6449-6E6F-744E-656564454649\n"
        f"start={ROOT_START}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
    )
    run(["sfdisk", "--quiet", raw], stdin=script.encode())


def _file_system(disk: Disk, raw: Path, work: Path) -> None:
    conf = work / "mke2fs.conf"
    conf.write_text(MKE2FS_CONF)
    size_kib = (disk.size_mib - TAIL_MIB) * 1024 - ROOT_START * SECTOR // 1024
    try:
        run(
            [
                *("mke2fs", "-q", "-F", "-t", disk.file_system, "-L", disk.label),
                *("-d", disk.folder, "-E", f"offset={ROOT_START * SECTOR}"),
                *(raw, f"{size_kib}k"),
            ],
            env={**os.environ, "MKE2FS_CONFIG": str(conf)},
        )
    except BuildError as error:
        raise BuildError(f"{error}\n(The file system has {size_kib // 1024} MiB.)") from error


def _install_grub(raw: Path, work: Path) -> None:
    """What grub-install does, written straight into the image (GRUB manual, "BIOS installation").

    The boot sector learns where core.img starts, and core.img's first sector where the rest is.
    """
    core_file = work / "core.img"
    run(
        [
            *("grub-mkimage", "-O", "i386-pc", "-o", core_file),
            *("-p", "(hd0,gpt2)/boot/grub"),
            *GRUB_MODULES.split(),
        ]
    )
    boot = bytearray((GRUB / "boot.img").read_bytes())
    core = bytearray(core_file.read_bytes())
    sectors = -(-len(core) // SECTOR)
    if sectors > ROOT_START - CORE_START:
        raise BuildError("GRUB's core image does not fit into the BIOS boot partition.")
    struct.pack_into("<Q", boot, 0x5C, CORE_START)
    # The block list at the end of core.img's first sector: start, length, load segment.
    struct.pack_into("<QHH", core, SECTOR - 12, CORE_START + 1, sectors - 1, 0x820)
    with raw.open("r+b") as image:
        image.write(boot[:440])  # the rest of the sector is the partition table's
        image.seek(CORE_START * SECTOR)
        image.write(core)
