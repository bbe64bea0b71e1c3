"""Fixtures of the lab and its guests, for every test that wants a real libvirt.

Other folders use them by import: ``from tests.lab.conftest import lab, tiny_image  # noqa: F401``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB_COMMAND = ROOT / "scripts" / "lab"
BUILD_COMMAND = ROOT / "guests" / "build"
HOSTS = 2


@dataclass(frozen=True)
class SshWay:
    host: str
    port: int
    user: str
    key: str
    known_hosts: str


@dataclass(frozen=True)
class LabHost:
    name: str
    uri: str
    socket_path: str
    uuid: str
    subnet: str
    site_address: str
    ssh: SshWay


class RunningLab:
    """The lab as a test sees it: everything goes through ``scripts/lab``, as for a person."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: list[LabHost] = []
        self.refresh()

    def refresh(self) -> None:
        self.hosts = [
            LabHost(
                ssh=SshWay(**facts["ssh"]),
                **{name: facts[name] for name in LabHost.__dataclass_fields__ if name != "ssh"},
            )
            for facts in self.status()
        ]

    def status(self) -> list[dict[str, Any]]:
        facts: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)
        return facts

    def host(self, name: str) -> LabHost:
        return next(host for host in self.hosts if host.name == name)

    def run(
        self, *argv: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """``scripts/lab ARGV``. A failure shows what the command said."""
        done = subprocess.run(
            [str(LAB_COMMAND), "--dir", str(self.folder), *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"lab {argv}: {done.stdout}{done.stderr}"
        return done

    def virsh(self, host: str, *argv: str) -> str:
        return self.run("virsh", host, *argv).stdout

    def exec(
        self, host: str, *argv: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the host's namespaces."""
        return self.run("exec", host, "--", *argv, check=check, timeout_s=timeout_s)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """Two lab hosts, a and b. ``KVMWEB_TEST_LAB=DIR`` uses a running lab and leaves it be."""
    given = os.environ.get("KVMWEB_TEST_LAB")
    if os.geteuid() != 0:
        pytest.skip("the lab makes namespaces: run the tests as root")
    if given:
        yield RunningLab(Path(given))
        return
    running = RunningLab(tmp_path_factory.mktemp("lab"))
    try:
        running.run("up", str(HOSTS))
        running.refresh()
        # Every folder that imports this fixture has a copy of it: they share the first one's lab.
        os.environ["KVMWEB_TEST_LAB"] = str(running.folder)
        yield running
    finally:
        os.environ.pop("KVMWEB_TEST_LAB", None)
        running.run("down", "--purge")


@pytest.fixture(scope="session")
def tiny_image() -> Path:
    return _guest("tiny")


@pytest.fixture(scope="session")
def debian_image() -> Path:
    return _guest("debian")


@pytest.fixture(scope="session")
def display_image() -> Path:
    return _guest("display")


def _guest(name: str) -> Path:
    """From the cache, or built now: a minute or two the first time."""
    done = subprocess.run([str(BUILD_COMMAND), name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"guests/build {name}: {done.stderr}"
    return Path(done.stdout.strip())
