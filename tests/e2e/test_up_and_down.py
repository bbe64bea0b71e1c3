"""``scripts/up``: from nothing to a machine with an address. ``scripts/down``: to nothing again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab.conftest import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

UP_S = 400
DOWN_S = 120
BOOT_S = 180
POLL_S = 0.3
PROGRAMS = ("uvicorn", "kvmweb.background", "redis-server", "supervisord", "libvirtd")


class Installation:
    """A checkout's ``var/`` of its own; the lab in it is apart from every other."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("KVMWEB_")} | {
            "KVMWEB_VAR": str(var)
        }
        for name in ("KVMWEB_CACHE", "KVMWEB_VENV"):
            if name in os.environ:
                self.env[name] = os.environ[name]

    def run(self, script: str, *words: str, timeout_s: float) -> str:
        done = subprocess.run(
            [str(ROOT / "scripts" / script), *words],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> str:
        words = ("--lab", "1", "--detach", "--no-install")
        return self.run("up", *words, timeout_s=UP_S)

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.var / "up.json").read_text())
        return found

    def api(self, method: str, path: str, body: Any = None) -> Any:
        facts = self.facts()
        answer = httpx.request(
            method,
            f"{facts['url']}/api/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {facts['token']}"},
            timeout=30,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def namespace(self) -> str:
        """The network namespace of lab host a: its guests are known by it."""
        words = ("--dir", str(self.var / "lab"), "exec", "a", "--", "readlink", "/proc/self/ns/net")
        return self.run("lab", *words, timeout_s=60).strip()

    def processes(self, namespace: str = "") -> dict[int, str]:
        """pid -> command of all that belongs to this installation."""
        mark, found = str(self.var), {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                inside = namespace and str((folder / "ns" / "net").readlink()) == namespace
                if int(folder.name) != os.getpid() and (
                    mark in command or f"={mark}" in environment or inside
                ):
                    found[int(folder.name)] = command
        return found


@pytest.fixture
def installation() -> Iterator[Installation]:
    folder = Path(tempfile.mkdtemp(prefix="kvmweb-up-", dir="/tmp"))
    made = Installation(folder / "var")
    yield made
    if made.var.exists():
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            print(made.run("down", "--purge", timeout_s=DOWN_S))  # noqa: T201
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(reached: Callable[[], Any], what: str, *, timeout_s: float) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)
    return found


def test_one_command_up_and_one_down(installation: Installation) -> None:
    began = time.monotonic()
    said = installation.up()
    print(f"up took {time.monotonic() - began:.0f} s")  # noqa: T201
    facts = installation.facts()
    assert set(facts) == {"url", "admin", "password", "token", "hosts"}
    assert [host["name"] for host in facts["hosts"]] == ["a"]
    assert set(facts["hosts"][0]) == {"name", "uri"}
    mode = (installation.var / "up.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert facts["url"] in said
    assert facts["password"] in said
    assert httpx.get(f"{facts['url']}/readyz").status_code == 200

    namespace = installation.namespace()
    running = installation.processes(namespace)
    for program in PROGRAMS:
        assert any(program in command for command in running.values()), f"no {program}: {running}"

    wanted = {"name": "hello", "image": "Tiny Linux", "vcpus": 1, "memory_mib": 128, "disk_gib": 1}
    uuid = installation.api("POST", "/vms", wanted)["vm"]["uuid"]

    def has_address() -> bool:
        vm = installation.api("GET", f"/vms/{uuid}")
        assert not vm["fault"], vm
        return vm["state"] == "running" and bool(vm["addresses"])

    wait_for(has_address, "the machine runs and has an address", timeout_s=BOOT_S)
    with_guest = installation.processes(namespace)
    assert any("qemu-system" in command for command in with_guest.values())

    # A second `up` finds the first, and changes nothing.
    assert "running already" in installation.up()
    assert installation.facts() == facts
    assert set(running) <= set(installation.processes(namespace)) | _short_lived(running)
    assert installation.api("GET", f"/vms/{uuid}")["state"] == "running"

    installation.run("down", "--purge", timeout_s=DOWN_S)
    left = installation.processes(namespace)
    assert not left, left
    assert not installation.var.exists()


def _short_lived(processes: dict[int, str]) -> set[int]:
    """Of what was seen, that which ends by itself: commands of the moment."""
    return {
        pid for pid, command in processes.items() if not any(word in command for word in PROGRAMS)
    }
