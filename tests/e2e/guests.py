"""A machine seen past the site: virsh on its host, SSH into its guest, what its host holds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.conftest import RunningLab
from tests.stack import Stack

SSH_OPTIONS = (
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "BatchMode=yes",
    "ConnectTimeout=10",
    "LogLevel=ERROR",
)


def virsh(lab: RunningLab, host: str, *argv: str, timeout_s: float = 60) -> str:
    """virsh from outside, without the tens of milliseconds that ``scripts/lab`` takes."""
    command = ["virsh", "-q", "-c", lab.host(host).uri, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"virsh {argv}: {done.stderr}"
    return done.stdout


def make_key(folder: Path) -> Path:
    """An SSH key pair; the public half has the suffix ``.pub``."""
    path = folder / "id_ed25519"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@dataclass(kw_only=True)
class Guest:
    """``key``: the private key whose public half its first user was given."""

    stack: Stack
    lab: RunningLab
    uuid: str
    key: Path | None = None

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.api("GET", f"/vms/{self.uuid}", user="admin")
        return found

    @property
    def host(self) -> str:
        return str(self.facts()["host"])

    def wait(self, reached: Callable[[], Any], what: str, *, timeout_s: float) -> Any:
        return self.stack.wait(reached, what, timeout_s=timeout_s)

    def wait_state(self, state: str, *, timeout_s: float = 60) -> None:
        self.wait(
            lambda: self.facts()["state"] == state, f"the site says {state}", timeout_s=timeout_s
        )

    def wait_idle(self, *, timeout_s: float = 60) -> None:
        """Until no job is at work on it."""
        self.wait(lambda: not self.facts()["task"], "no job at work", timeout_s=timeout_s)

    def wait_free(self, *, timeout_s: float) -> None:
        """Until it may be deleted: what still runs only watches the guest."""

        def free() -> bool:
            task = self.facts()["task"]
            return task is None or task["observing"]

        self.wait(free, "no job that changes it", timeout_s=timeout_s)

    # --- on its host --------------------------------------------------------------------------

    def virsh(self, verb: str, *argv: str) -> str:
        return virsh(self.lab, self.host, verb, self.uuid, *argv)

    def state_on_host(self) -> str:
        return self.virsh("domstate").strip()

    def volumes(self) -> set[str]:
        """Volumes of this machine in its host's pool."""
        virsh(self.lab, self.host, "pool-refresh", "default")
        listed = virsh(self.lab, self.host, "vol-list", "default")
        names = {line.split()[0] for line in listed.splitlines() if line.split()}
        return {name for name in names if self.uuid in name}

    def disk(self) -> dict[str, Any]:
        """What qemu-img says of its first disk."""
        path = f"/var/lib/libvirt/images/kvmweb-{self.uuid}-vda.qcow2"
        words = ("qemu-img", "info", "-U", "-f", "qcow2", "--output=json", path)
        found: dict[str, Any] = json.loads(self.lab.exec(self.host, *words).stdout)
        return found

    # --- in its guest -------------------------------------------------------------------------

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run it as the first user, from within the host: nothing else reaches a guest."""
        facts = self.facts()
        assert facts["addresses"], f"{facts['name']} has no address"
        flags = [word for option in SSH_OPTIONS for word in ("-o", option)]
        target = f"{facts['user']}@{facts['addresses'][0]}"
        argv = ["ssh", "-F", "none", *flags, "-i", str(self.key), target, command]
        return self.lab.exec(facts["host"], *argv, check=False, timeout_s=60)

    def wait_ssh(self, *, timeout_s: float) -> None:
        def answers() -> bool:
            return bool(self.facts()["addresses"]) and self.ssh("true").returncode == 0

        self.wait(answers, "SSH with the given key", timeout_s=timeout_s)

    def wait_file(self, path: str, *, timeout_s: float) -> float:
        """Seconds until the file is there."""
        began = time.monotonic()
        self.wait(
            lambda: self.ssh(f"test -e {path}").returncode == 0,
            f"{path} in the guest",
            timeout_s=timeout_s,
        )
        return time.monotonic() - began
