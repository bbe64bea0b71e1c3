"""What was built is kept under a name made of everything that went into it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .shell import BuildError, say

RECIPE = [Path(__file__).with_name(name) for name in ("disk.py", "kernel.py")]
KEPT = 2
NEEDED_MIB = 4096  # unpacked trees and raw images, at the most


def folder() -> Path:
    chosen = os.environ.get("KVMWEB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "kvmweb"


def key(inputs: Sequence[str], recipe: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for line in inputs:
        digest.update(f"{line}\n".encode())
    for path in [*recipe, *RECIPE]:
        digest.update(f"{path.name} {path.stat().st_mode & 0o100}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def get(name: str, build: Callable[[Path, Path], None], *, force: bool = False) -> Path:
    """The cached file, or the one that ``build(out, work folder)`` makes now."""
    cache = folder()
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / name
    with _locked(cache / f"{name}.lock"):
        if kept.exists() and not force:
            return kept
        free = shutil.disk_usage(cache).free // (1024 * 1024)
        if free < NEEDED_MIB:
            raise BuildError(f"{cache} has {free} MiB free; building takes up to {NEEDED_MIB} MiB.")
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as work:
            # The file system's root takes the folder's mode with it: 0700 would lock people out.
            Path(work).chmod(0o755)
            part = Path(work) / "out.qcow2"
            build(part, Path(work))
            part.chmod(0o644)
            part.rename(kept)
        _prune(kept)
        say(f"Built {kept} ({kept.stat().st_size // (1024 * 1024)} MiB)")
    return kept


def _prune(kept: Path) -> None:
    """Older images of the same guest go, but for one: somebody may be copying it just now."""
    guest = kept.name.partition("-")[0]
    images = sorted(kept.parent.glob(f"{guest}-*.qcow2"), key=lambda path: path.stat().st_mtime)
    for old in images[:-KEPT]:
        old.unlink(missing_ok=True)
        old.with_name(f"{old.name}.lock").unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another build of the same guest runs; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
