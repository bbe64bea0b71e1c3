"""The script that a person would write: ``qemu-img create`` on the image, ``virsh define``, start.

The domain is the site's own (its stored XML with another name, UUID, MAC and disk), so both boot
the same thing. The script runs inside the lab host and takes its own time, so that what it costs
to enter the host's namespaces is not counted against it.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import uuid
from pathlib import Path

POOL = "/var/lib/libvirt/images"
SCRIPT = """#!/bin/sh
set -eu
begin=$(date +%s.%N)
i=0
while [ $i -lt {count} ]; do
    qemu-img create -q -f qcow2 -b {image} -F qcow2 {pool}/{stem}-$i.qcow2 {disk_gib}G
    virsh -q define {folder}/{stem}-$i.xml >/dev/null
    virsh -q start {stem}-$i >/dev/null
    i=$((i + 1))
done
end=$(date +%s.%N)
echo "$begin $end"
"""
CLEAN = """
i=0
while [ $i -lt {count} ]; do
    virsh -q destroy {stem}-$i >/dev/null 2>&1
    virsh -q undefine {stem}-$i >/dev/null 2>&1
    rm -f {pool}/{stem}-$i.qcow2 {pool}/{stem}-$i-serial.log
    i=$((i + 1))
done
"""


class Bare:
    """``lab``: the ``scripts/lab`` command with its folder."""

    def __init__(self, lab: list[str], host: str, folder: Path) -> None:
        self.lab = lab
        self.host = host
        self.folder = folder

    def run(self, *, template_xml: str, image: str, disk_gib: int, count: int) -> float:
        """Seconds until ``count`` machines run, one after the other. They are removed again."""
        stem = f"bare-{secrets.token_hex(3)}"
        for n in range(count):
            path = self.folder / f"{stem}-{n}.xml"
            path.write_text(_another(template_xml, f"{stem}-{n}"))
        values = {
            "count": count,
            "image": image,
            "pool": POOL,
            "stem": stem,
            "folder": self.folder,
            "disk_gib": disk_gib,
        }
        begin, end = self._sh(SCRIPT.format(**values)).split()
        self._sh(CLEAN.format(**values))
        return float(end) - float(begin)

    def timed(self, script: str) -> float:
        """Seconds that these lines take inside the host."""
        lines = f"set -eu\nbegin=$(date +%s.%N)\n{script}\nend=$(date +%s.%N)\necho $begin $end"
        begin, end = self._sh(lines).split()[-2:]
        return float(end) - float(begin)

    def dump(self, domain: str) -> str:
        return self._lab("virsh", self.host, "dumpxml", "--inactive", domain)

    def _sh(self, script: str) -> str:
        return self._lab("exec", self.host, "--", "sh", "-c", script)

    def _lab(self, *words: str) -> str:
        done = subprocess.run([*self.lab, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{words[:3]}: {done.stderr}")
        return done.stdout


def _another(xml: str, name: str) -> str:
    """The same machine under another name; without a seed, which the script does not make."""
    xml = re.sub(r"<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)
    xml = re.sub(r"<disk type='[a-z]+' device='cdrom'>.*?</disk>", "", xml, flags=re.DOTALL)
    old = re.search(r"<name>(.*?)</name>", xml)
    if old is None:
        raise ValueError("a domain has a name")
    xml = re.sub(r"kvmweb-[0-9a-f-]{36}-vda", name, xml)
    xml = re.sub(r"kvmweb-[0-9a-f-]{36}-serial", f"{name}-serial", xml)
    xml = xml.replace(f"<name>{old[1]}</name>", f"<name>{name}</name>")
    xml = re.sub(r"<uuid>.*?</uuid>", f"<uuid>{uuid.uuid4()}</uuid>", xml, count=1)
    tail = ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    return re.sub(r"<mac address='.*?'/>", f"<mac address='52:54:00:{tail}'/>", xml)
