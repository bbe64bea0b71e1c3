"""Keymaps of a guest's text console. Debian's cloud image has none, and no program to load one:
it gets those that the tiny guest carries."""

from __future__ import annotations

import base64
import gzip
import subprocess
import zlib
from pathlib import Path

from tests.e2e.guests import Guest

ROOT_START_BYTES = 4096 * 512  # where guests/build puts the file system
# A "bkeymap" (busybox's dumpkmap.c) by ioctl_console(2), KDSKBENT: with table and index, a value.
LOAD = """
import base64, fcntl, struct, sys, zlib
data = zlib.decompress(base64.b64decode(sys.argv[1]))
assert data[:7] == b"bkeymap"
tables = [number for number in range(256) if data[7 + number]]
values = struct.unpack_from(f"<{len(tables) * 128}H", data, 7 + 256)
with open("/dev/tty1", "rb") as console:
    for at, value in enumerate(values):
        entry = struct.pack("BBH", tables[at // 128], at % 128, value)
        fcntl.ioctl(console, 0x4B47, entry)
"""


class Keymaps:
    """Of the tiny guest, by X11's names of the layouts."""

    def __init__(self, tiny_image: Path, folder: Path) -> None:
        raw, self._tree = folder / "tiny.raw", folder / "tiny"
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(tiny_image), str(raw)]
        subprocess.run(convert, check=True)
        read = ["debugfs", "-R", "cat /boot/initrd", f"{raw}?offset={ROOT_START_BYTES}"]
        packed = subprocess.run(read, check=True, capture_output=True).stdout
        self._tree.mkdir()
        unpack = ["cpio", "--quiet", "-id", "--no-absolute-filenames", "lib/keymaps/*"]
        subprocess.run(unpack, check=True, input=gzip.decompress(packed), cwd=self._tree)

    def load(self, guest: Guest, layout: str) -> None:
        """Into the first text console of a guest that has Python and sudo."""
        packed = zlib.compress((self._tree / "lib/keymaps" / layout).read_bytes())
        keymap = base64.b64encode(packed).decode()
        program = base64.b64encode(LOAD.encode()).decode()
        done = guest.ssh(f'sudo -n python3 -c "$(echo {program} | base64 -d)" {keymap}')
        assert done.returncode == 0, done.stderr
