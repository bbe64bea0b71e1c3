"""The local libvirt: found running, asked of systemd, or started by us where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

from runner import processes, say, system
from runner.paths import LAB_DIR, LOGS, ROOT

URI = "qemu:///system"
DAEMONS = ("virtlogd", "libvirtd")


def answers() -> bool:
    return _virsh("version").returncode == 0


def _start_daemon(name: str, step: say.Step) -> None:
    """Start one daemon as root, in the background, and remember it for ``down``."""
    pid_file = Path(f"/run/{name}.pid")
    say.run(
        system.as_root([shutil.which(name) or f"/usr/sbin/{name}", "-d"]),
        step=step,
        log=LOGS / "libvirt.log",
        advice="run it by hand to see why: libvirtd -v",
    )
    end = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text().strip()):
        if time.monotonic() > end:
            return
        time.sleep(0.1)
    pid = int(pid_file.read_text())
    daemons = processes.read_started().get("daemons", [])
    daemons.append({"name": name, "pid": pid, "started": processes.started_at(pid)})
    processes.note_started(daemons=daemons)


def ensure(step: say.Step) -> None:
    """libvirt answers at ``qemu:///system``, with its ``default`` network running."""
    if not answers():
        if system.has_systemd():
            for unit in ("libvirtd.service", "virtqemud.socket"):
                done = subprocess.run(
                    system.as_root(["systemctl", "start", unit]), capture_output=True, check=False
                )
                if done.returncode == 0:
                    break
        else:
            for name in DAEMONS:
                if not _running(name):
                    _start_daemon(name, step)
        end = time.monotonic() + 30
        while not answers():
            if time.monotonic() > end:
                raise say.StepFailed(
                    "libvirt does not answer at qemu:///system",
                    "try: virsh -c qemu:///system version — or use ./scripts/up --lab 1",
                )
            time.sleep(0.3)
    _ensure_network()


def _running(name: str) -> bool:
    return subprocess.run(["pidof", name], capture_output=True, check=False).returncode == 0


def _virsh(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["virsh", "-q", "-c", URI, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def _ensure_network() -> None:
    """Start ``default`` where it is stopped. What stops it is told on the host's page."""
    if "default" in _virsh("net-list", "--name").stdout.split():
        return
    definition = Path("/usr/share/libvirt/networks/default.xml")
    if "default" not in _virsh("net-list", "--all", "--name").stdout.split():
        _virsh("net-define", str(definition))
    _virsh("net-start", "default")
    _virsh("net-autostart", "default")


def stop_started() -> list[str]:
    """End the daemons that ``up`` started; returns their names."""
    ended = []
    for daemon in reversed(processes.read_started().get("daemons", [])):
        if processes.started_at(daemon["pid"]) != daemon["started"]:
            continue
        subprocess.run(system.as_root(["kill", str(daemon["pid"])]), check=False)
        end = time.monotonic() + 15
        while processes.started_at(daemon["pid"]) == daemon["started"]:
            if time.monotonic() > end:
                subprocess.run(system.as_root(["kill", "-9", str(daemon["pid"])]), check=False)
                break
            time.sleep(0.1)
        ended.append(daemon["name"])
    return ended


def lab(*words: str, root: bool = True) -> list[str]:
    command = [str(ROOT / "scripts" / "lab"), *words, "--dir", str(LAB_DIR)]
    return system.as_root(command) if root else command


def lab_up(count: int, step: say.Step) -> list[dict[str, str]]:
    """Start ``count`` isolated hosts; returns their name, uri and socket_path."""
    say.run(
        lab("up", str(count)),
        step=step,
        log=LOGS / "lab.log",
        advice="look at the log; ./scripts/lab down --dir var/lab cleans up",
    )
    processes.note_started(lab=True)
    shown = subprocess.run(
        lab("status", "--json"), capture_output=True, text=True, check=True
    ).stdout
    found: list[dict[str, str]] = json.loads(shown)
    return found


def lab_down(*, purge: bool) -> None:
    subprocess.run(lab("down", *(["--purge"] if purge else [])), check=False)
