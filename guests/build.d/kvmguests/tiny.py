"""The tiny guest: a kernel, busybox and dropbear in an initramfs, on a disk with GRUB that boots
by BIOS, by UEFI and with Secure Boot."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from . import disk, efi, kernel, keymaps
from .packages import candidate_version, installed_version
from .shell import BuildError, run, say

ROOTFS = Path(__file__).resolve().parents[2] / "tiny" / "rootfs"
SIZE_MIB = 64
FOLDERS = "bin dev etc proc sys tmp run root mnt disk lib/modules var/run var/log".split()
NEEDED = "virtio_pci virtio_blk virtio_net virtio_scsi sr_mod isofs virtio_console button evdev"
WISHED = "efivarfs virtio_rng virtio_balloon sd_mod ahci e1000 e1000e 8139cp nvme"
# Debian's busybox lists itself among its applets; a link to itself would replace it.
NOT_LINKED = {"busybox"}

GRUB_CFG = """\
set timeout=0
linux /boot/vmlinuz console=ttyS0,115200 console=tty0 quiet
initrd /boot/initrd
boot
"""
# Of GRUB on the system partition: the kernel is on the other one.
EFI_CFG = f"search --no-floppy --label tiny --set=root\n{GRUB_CFG}"


def inputs() -> list[str]:
    """Whatever, when it changes, makes another image."""
    return [
        f"kernel {candidate_version(kernel.metapackage())}",
        f"busybox {installed_version('busybox-static')}",
        f"dropbear {installed_version('dropbear-bin')}",
        f"libc {installed_version('libc6')}",
        *keymaps.inputs(),
        *efi.inputs(),
    ]


def recipe() -> list[Path]:
    return [Path(__file__), Path(keymaps.__file__), Path(efi.__file__), *files()]


def files() -> list[Path]:
    return sorted(path for path in ROOTFS.rglob("*") if path.is_file())


def build(out: Path, work: Path, *, package: str = "", more: str = "") -> None:
    """``package``: of another kernel; ``more``: modules that this guest needs besides."""
    chosen = kernel.fetch(
        work / "kernel",
        package=package or kernel.metapackage(),
        needed=f"{NEEDED} {more}".split(),
        wished=WISHED.split(),
    )
    say("Making the initramfs")
    root = work / "initramfs"
    _copy_rootfs(root)
    _add_busybox(root)
    _add_program(root, "dropbear")
    _add_modules(root, chosen.modules)
    keymaps.make(root / "lib" / "keymaps", work / "keyboard")
    boot = work / "disk" / "boot"
    (boot / "grub").mkdir(parents=True)
    shutil.copy(chosen.image, boot / "vmlinuz")
    (boot / "initrd").write_bytes(_pack(root))
    (boot / "grub" / "grub.cfg").write_text(GRUB_CFG)
    disk.make(
        disk.Disk(folder=boot.parent, label="tiny", file_system="ext3", size_mib=SIZE_MIB),
        out,
        work,
    )
    efi.add(out, EFI_CFG, work)


def _copy_rootfs(root: Path) -> None:
    shutil.copytree(ROOTFS, root)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in [root, *root.rglob("*")]:
        # A checkout's modes are its owner's affair: here only what is executable counts.
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)


def _add_busybox(root: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise BuildError("busybox is not installed.")
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in set(run([busybox, "--list"]).decode().split()) - NOT_LINKED:
        (root / "bin" / applet).symlink_to("busybox")
    missing = [
        name
        for name in ("udhcpc", "acpid", "getty", "findfs", "loadkmap")
        if not (root / "bin" / name).is_symlink()
    ]
    if missing:
        raise BuildError(f"This busybox lacks {', '.join(missing)}; install busybox-static.")


def _add_program(root: Path, name: str) -> None:
    """A program with the shared libraries that it is linked with."""
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise BuildError(f"{name} is not installed.")
    shutil.copy(program, root / "bin" / name)
    for library in re.findall(r"(/\S+) \(0x", run(["ldd", program]).decode()):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def _add_modules(root: Path, modules: dict[str, bytes]) -> None:
    folder = root / "lib" / "modules"
    for name, content in modules.items():
        (folder / name).write_bytes(content)
    (folder / "order").write_text("".join(f"{name}\n" for name in modules))


def _pack(root: Path) -> bytes:
    names = [".", *sorted(str(path.relative_to(root)) for path in root.rglob("*"))]
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "--reproducible"],
        input="\n".join(names).encode() + b"\n",
        cwd=root,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"cpio failed: {done.stderr.decode(errors='replace')}")
    return gzip.compress(done.stdout, compresslevel=9, mtime=0)
