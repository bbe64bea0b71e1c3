"""A Debian 12 cloud image: real cloud-init, sshd and guest agent, like Debian's genericcloud.

Debian's own archive through mmdebstrap, so it is built where no image can be downloaded. What
differs from the official image: GRUB reads a fixed configuration that follows the /vmlinuz link,
only NoCloud is looked for, and timers that would burn CPU in an emulated test guest are masked.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import disk
from .packages import installed_version
from .shell import BuildError, run, say

SUITE = "bookworm"
SIZE_MIB = 2048  # cloud-init grows the file system to the disk's size at the first boot
FILES = Path(__file__).resolve().parents[2] / "debian" / "rootfs"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PACKAGES = """
    systemd-sysv udev dbus linux-image-cloud-amd64 initramfs-tools zstd
    cloud-init cloud-guest-utils fdisk e2fsprogs netplan.io systemd-resolved
    openssh-server qemu-guest-agent sudo login passwd iproute2 iputils-ping ca-certificates
    less nano procps bash-completion
"""
# Nobody reads documentation in a test guest, and copying it takes time in every test.
LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "bug")
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
    e2scrub_reap.service man-db.timer fstrim.timer systemd-pstore.service
"""
# What must differ between two machines of one image is not in the image.
IDENTITY = (
    "etc/ssh/ssh_host_*",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/cloud/*",
    "var/log/*.log",
    "var/log/apt/*",
    "var/log/journal/*",
    "var/lib/apt/lists/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/debconf/*-old",
)


def inputs() -> list[str]:
    """A new point release alone makes no new image: remove the cached one, or `--force`."""
    return [f"mmdebstrap {installed_version('mmdebstrap')}", SUITE]


def recipe() -> list[Path]:
    return [Path(__file__), *files()]


def files() -> list[Path]:
    return sorted(path for path in FILES.rglob("*") if path.is_file())


def build(out: Path, work: Path) -> None:
    root = work / "root"
    _debootstrap(root)
    _settle(root)
    _make_initramfs(root)
    disk.make(
        disk.Disk(folder=root, label="rootfs", file_system="ext4", size_mib=SIZE_MIB), out, work
    )


def _debootstrap(root: Path) -> None:
    say(f"Fetching and unpacking Debian {SUITE} (a minute or two)")
    if not KEYRING.exists():
        raise BuildError(f"{KEYRING} is missing: install debian-archive-keyring.")
    mirror = os.environ.get("KVMWEB_DEBIAN_MIRROR")  # else the one that mmdebstrap knows
    run(
        ["mmdebstrap", "--mode=root", "--variant=minbase", f"--keyring={KEYRING}"]
        + [f"--include={','.join(PACKAGES.split())}"]
        + ['--aptopt=Apt::Install-Recommends "false"']
        + [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        + [SUITE, str(root), *([mirror] if mirror else [])]
    )


def _settle(root: Path) -> None:
    """Our files over the distribution's, units switched on and off, identity taken out."""
    say("Setting it up")
    for source in files():
        target = root / source.relative_to(FILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)
    run(["chroot", root, "systemctl", "enable", "systemd-networkd", "systemd-resolved"])
    for unit in MASKED.split():
        _link(root / "etc/systemd/system" / unit, "/dev/null")
    _link(root / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    for pattern in IDENTITY:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Empty, not absent: systemd then makes a new one and does not ask about a first boot.
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("debian\n")
    # Newer than /usr: the first boot need not build the hardware database and the like again.
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()


def _make_initramfs(root: Path) -> None:
    """Only the drivers of the disks that a guest can have: a quarter of the size, read at boot."""
    say("Making its initramfs")
    run(["chroot", root, "update-initramfs", "-u", "-k", "all"])


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
