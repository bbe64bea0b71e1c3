"""The tiny guest with a driver for its display: its console takes the size that is asked of it.

Cloud kernels have no such driver, so it has the kernel for any hardware, a larger download.
"""

from __future__ import annotations

from pathlib import Path

from . import kernel, tiny
from .packages import candidate_version

METAPACKAGES = {"debian": "linux-image-amd64", "ubuntu": "linux-image-generic"}


def inputs() -> list[str]:
    package = kernel.metapackage(METAPACKAGES)
    return [f"kernel {candidate_version(package)}", *tiny.inputs()]


def recipe() -> list[Path]:
    return [Path(__file__), *tiny.recipe()]


def build(out: Path, work: Path) -> None:
    tiny.build(out, work, package=kernel.metapackage(METAPACKAGES), more="virtio_gpu")
