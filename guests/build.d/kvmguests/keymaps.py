"""Keymaps of the console, for busybox's ``loadkmap``: made as Debian makes a machine's own."""

from __future__ import annotations

from pathlib import Path

from .packages import candidate_version, unpack
from .shell import run

PACKAGES = ("console-setup", "kbd", "xkb-data")
LAYOUTS = ("us", "gb", "de", "fr", "es", "jp")


def inputs() -> list[str]:
    return [f"{name} {candidate_version(name)}" for name in PACKAGES]


def make(folder: Path, work: Path) -> None:
    """One file for each layout below ``folder``, named by X11's name of it."""
    tree = work / "files"
    unpack(list(PACKAGES), tree)
    # In /bin or in /usr/bin, by the release.
    loadkeys = next(tree.glob("**/bin/loadkeys"))
    folder.mkdir(parents=True)
    for layout in LAYOUTS:
        words = ["perl", tree / "usr/bin/ckbcomp", f"-I{tree}/usr/share/X11/xkb", "-layout", layout]
        text = work / layout
        text.write_bytes(run(words))
        (folder / layout).write_bytes(run([loadkeys, "--unicode", "--bkeymap", text]))
