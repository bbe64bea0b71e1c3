"""A kernel and the few modules that a small guest needs, out of the distribution's packages."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from .packages import dependencies, unpack
from .shell import BuildError, run

# The metapackage that follows the newest kernel: the first that apt knows is taken.
METAPACKAGES = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}


@dataclass(frozen=True)
class Kernel:
    image: Path
    modules: dict[str, bytes]  # file name -> content, in the order in which they must be loaded


def metapackage(names: dict[str, str] = METAPACKAGES) -> str:
    if platform.machine() != "x86_64":
        raise BuildError(f"Guests are built for x86_64 only; this machine is {platform.machine()}.")
    release = Path("/etc/os-release").read_text()
    likes = re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)"?$', release, flags=re.MULTILINE)
    return names["ubuntu" if "ubuntu" in " ".join(likes) else "debian"]


def fetch(folder: Path, *, package: str, needed: list[str], wished: list[str]) -> Kernel:
    """Unpack the newest kernel of this metapackage below ``folder`` and choose modules, with what
    they depend on."""
    images = dependencies(package, r"linux-image-(unsigned-)?\d")
    if not images:
        raise BuildError(f"{package} names no kernel. Run `apt-get update`, then try again.")
    # Ubuntu keeps the modules in a package of their own.
    unpack([images[0], *dependencies(images[0], r"linux-modules-\d")], folder)
    image = next(iter(sorted(folder.glob("boot/vmlinuz-*"))), None)
    tree = next(iter([*folder.glob("lib/modules/*"), *folder.glob("usr/lib/modules/*")]), None)
    if image is None or tree is None:
        raise BuildError(f"{images[0]} holds no kernel image or no modules.")
    return Kernel(image=image, modules=_choose(tree, needed, wished))


def _choose(tree: Path, needed: list[str], wished: list[str]) -> dict[str, bytes]:
    files = {_name(path): path for path in tree.rglob("*.ko*")}
    built_in = {_name(Path(line)) for line in (tree / "modules.builtin").read_text().split()}
    chosen: dict[str, bytes] = {}

    def take(name: str, *, must: bool) -> None:
        path = files.get(name)
        if path is None:
            if must and name not in built_in:
                raise BuildError(f"This kernel has no module {name}, which the guest needs.")
            return
        file_name = f"{name}.ko"
        if file_name in chosen:
            return
        content = _read(path)
        for other in _depends(content):
            take(other, must=True)
        chosen[file_name] = content

    for name in needed:
        take(name, must=True)
    for name in wished:
        take(name, must=False)
    return chosen


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """The modules that it says, in its .modinfo section, it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def _read(path: Path) -> bytes:
    match path.suffix:
        case ".zst":
            return run(["zstd", "-dcq", path])
        case ".xz":
            return run(["xz", "-dc", path])
    return path.read_bytes()
