"""Where a lab keeps its things, and what its hosts are called and addressed by.

A lab is a folder. Its short id, made of the folder's path, names everything outside the folder
(namespaces, links, the run directory), so labs in different folders never meet::

    DIR/lab.json             the lab's id, its octet, its hosts in order
    DIR/ssh/                 the key to sign in to the hosts with, and their pinned host keys
    DIR/<host>/{lib,cache,log,etc}   bound over /var/lib/libvirt and so on within the host
    /run/kvmweb-lab/<id>/<host>/     bound over /run/libvirt: a short path, since a unix
                                     socket's may have 107 characters at most
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .shell import LabError, run

RUN_ROOT = Path("/run/kvmweb-lab")
HOST_NAMES = "abcdefghijklmnopqrstuvwxyz"
FIRST_SUBNET_OCTET = 122  # host a has libvirt's usual 192.168.122.0/24, b 123, ...
METADATA_OCTET = 169  # 169.254.169.254 is where guests look for a cloud's metadata
SITE_LINK = "site0"  # within a host: the link to this machine, for ssh only
SWITCH_LINK = "lab0"  # within a host: the link to the other hosts


@dataclass(frozen=True)
class Lab:
    """A lab by its folder; reading it needs no privilege."""

    folder: Path

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]

    @property
    def run_folder(self) -> Path:
        return RUN_ROOT / self.id

    @property
    def state_file(self) -> Path:
        return self.folder / "lab.json"

    @property
    def ssh_key(self) -> Path:
        return self.folder / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "ssh" / "known_hosts"

    @property
    def switch_namespace(self) -> str:
        return f"kvmlab-{self.id}"

    def state(self) -> dict[str, object]:
        try:
            text = self.state_file.read_text()
        except FileNotFoundError:
            return {}
        state = json.loads(text)
        if not isinstance(state, dict):
            raise LabError(f"{self.state_file} is damaged; remove {self.folder} and start again.")
        return state

    def save(self, state: dict[str, object]) -> None:
        part = self.state_file.with_suffix(".part")
        part.write_text(json.dumps(state, indent=1))
        part.rename(self.state_file)

    @property
    def hosts(self) -> list[Host]:
        names = self.state().get("hosts", [])
        return [Host(self, str(name)) for name in names] if isinstance(names, list) else []

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts) or "none; `scripts/lab up 2` makes some"
        raise LabError(f"This lab has no host {name!r} (hosts: {known}).")

    @property
    def group(self) -> str:
        """Whose members may use the hosts' sockets: the person behind sudo, or root alone."""
        name = self.state().get("group", "root")
        return str(name)

    @property
    def octet(self) -> int:
        """The third number of 169.254.x.0/24, where this machine reaches the hosts' sshd."""
        octet = self.state().get("octet")
        if not isinstance(octet, int):
            raise LabError(f"{self.folder} holds no lab yet; `scripts/lab up 1` makes one.")
        return octet

    def create(self) -> None:
        """Make the folder and choose what must be unique on this machine. Harmless if made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        if not self.state():
            self.save({"id": self.id, "octet": _free_octet(self.id), "group": _caller_group()})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time on this machine: links and octets are chosen by looking first."""
        RUN_ROOT.mkdir(parents=True, exist_ok=True)
        with (RUN_ROOT / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class Host:
    """A lab host's names, paths and addresses; whether it runs is ``namespaces``' to say."""

    lab: Lab
    name: str

    @property
    def number(self) -> int:
        return HOST_NAMES.index(self.name) + 1

    @property
    def folder(self) -> Path:
        return self.lab.folder / self.name

    @property
    def run_folder(self) -> Path:
        return self.lab.run_folder / self.name

    @property
    def socket(self) -> Path:
        return self.run_folder / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def namespace(self) -> str:
        return f"kvmlab-{self.lab.id}-{self.name}"

    @property
    def uuid(self) -> str:
        """Steady over restarts and unlike any other's, or a migration would be refused."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"kvmweb-lab:{self.lab.folder}:{self.name}"))

    @property
    def subnet(self) -> str:
        return f"192.168.{FIRST_SUBNET_OCTET - 1 + self.number}"

    @property
    def switch_address(self) -> str:
        """Where the lab's other hosts reach it; known within the lab only."""
        return f"10.99.0.{self.number}"

    @property
    def site_link(self) -> str:
        """This machine's end of the ssh link."""
        return f"kvl{self.lab.id}{self.name}"

    @property
    def site_address(self) -> str:
        """This machine's address on the ssh link (a /30)."""
        return f"169.254.{self.lab.octet}.{4 * self.number + 1}"

    @property
    def ssh_address(self) -> str:
        return f"169.254.{self.lab.octet}.{4 * self.number + 2}"


def _free_octet(lab_id: str) -> int:
    taken = run(["ip", "-4", "-o", "addr", "show"]).stdout
    first = int(lab_id, 16)
    for offset in range(256):
        octet = (first + offset) % 256
        if octet != METADATA_OCTET and f" 169.254.{octet}." not in taken:
            return octet
    raise LabError("All of 169.254.0.0/16 is in use on this machine; stop a lab first.")


def _caller_group() -> str:
    try:
        return grp.getgrgid(int(os.environ.get("SUDO_GID", "0"))).gr_name
    except (KeyError, ValueError):
        return "root"
