"""``guests/build``: the command line."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from . import cache, debian, display, packages, tiny
from .shell import BuildError, say

GUESTS = {"tiny": tiny, "debian": debian, "display": display}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="guests/build",
        description="Build a guest into the cache (KVMWEB_CACHE, else ~/.cache/kvmweb).",
    )
    parser.add_argument("guest", choices=GUESTS)
    parser.add_argument("out", nargs="?", type=Path, help="copy it here; else its path is printed")
    parser.add_argument("--force", action="store_true", help="build it though the cache has it")
    arguments = parser.parse_args()
    # grub-mkimage, mke2fs and others lie in sbin, which is not on everybody's path.
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    try:
        path = _get(arguments.guest, force=arguments.force)
        if arguments.out is not None:
            shutil.copyfile(path, arguments.out)
            path = arguments.out
    except (BuildError, OSError) as error:
        print(f"guests/build: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


def _get(name: str, *, force: bool) -> Path:
    packages.require()
    guest = GUESTS[name]
    file_name = f"{name}-{cache.key(guest.inputs(), guest.recipe())}.qcow2"
    if not (cache.folder() / file_name).exists() or force:
        if os.geteuid() != 0:
            raise BuildError("Run it as root: the files in a guest belong to root.")
        say(f"Building the {name} guest")
    return cache.get(file_name, guest.build, force=force)
