"""Debian's installer, started with a preseed: its kernel and its initrd, taken from its disc.

What ``virt-install --location DISC --initrd-inject preseed.cfg`` does. Both are volumes beside the
machine's disk, and gone with the installation disc when the installer has ended (``vms.discs``).
The disc is a stranger's: only two files of it are read, by place and size within bounds.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from accounts.errors import DomainError
from hosts.virt.spec import KernelSpec
from vms import answers
from vms.images import files, isofile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vms.models import VM, Image

# Where Debian's discs have it: https://www.debian.org/releases/stable/amd64/ch05s01.html
FOLDERS = {"x86_64": "install.amd", "i686": "install.386", "aarch64": "install.a64"}
KERNEL, INITRD = "vmlinuz", "initrd.gz"
KERNEL_MAX_BYTES = 64 * 1024**2
INITRD_MAX_BYTES = 256 * 1024**2
_COPY_BYTES = 1024**2


def location(image: Image) -> tuple[str, str]:
    """Paths of its kernel and its initrd on the disc."""
    folder = FOLDERS.get(image.arch or "x86_64", FOLDERS["x86_64"])
    return f"{folder}/{KERNEL}", f"{folder}/{INITRD}"


def names(vm: VM) -> tuple[str, str]:
    """Of the volumes with its kernel and its initrd."""
    return f"kvmweb-{vm.uuid}-kernel", f"kvmweb-{vm.uuid}-initrd"


def seed_volumes(vm: VM) -> tuple[str, ...]:
    """What of its seed lies beside its disks: a disc, or these two, or nothing any more."""
    if not vm.seed_volume:
        return ()
    return names(vm) if vm.answers_kind == answers.PRESEED else (vm.seed_volume,)


def spec(vm: VM, pool: str) -> KernelSpec | None:
    """What it boots, while its installer is to be started."""
    if vm.answers_kind != answers.PRESEED or not vm.seed_volume:
        return None
    kernel, initrd = names(vm)
    return KernelSpec(pool=pool, kernel=kernel, initrd=initrd, cmdline=answers.PRESEED_CMDLINE)


@contextmanager
def parts(vm: VM) -> Iterator[tuple[tuple[str, IO[bytes]], ...]]:
    """Each volume's name, and a file with what is to be in it, at its end.
    DomainError: it is no disc of Debian's installer."""
    if vm.iso is None:
        raise RuntimeError(f"machine {vm.uuid} has no disc to install from")
    kernel, initrd = names(vm)
    with _taken_out(vm.iso) as (first, second):
        second.write(answers.in_initrd(vm.answers, after=second.tell()))
        yield (kernel, first), (initrd, second)


@contextmanager
def _taken_out(image: Image) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Copies of both files, at their ends."""
    kernel, initrd = location(image)
    try:
        disc = files.stored(image).open("rb")
    except FileNotFoundError as error:
        raise DomainError("image.file_missing", name=image.name) from error
    beside = files.folder()
    with (
        disc,
        tempfile.TemporaryFile(dir=beside) as first,
        tempfile.TemporaryFile(dir=beside) as second,
    ):
        for path, most, out in (
            (kernel, KERNEL_MAX_BYTES, first),
            (initrd, INITRD_MAX_BYTES, second),
        ):
            extent = isofile.find(disc, *path.split("/"), max_bytes=most)
            if extent is None:
                raise DomainError("answers.not_debian", name=image.name, path=path)
            disc.seek(extent.offset)
            left = extent.size
            while left and (part := disc.read(min(left, _COPY_BYTES))):
                out.write(part)
                left -= len(part)
        yield first, second
