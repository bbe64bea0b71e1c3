"""The local libvirt: found running, asked of systemd, or started by us where there is none."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from runner import processes, say, system
from runner.paths import LAB_DIR, LOGS, ROOT, VAR

URI = "qemu:///system"
DAEMONS = {"virtlogd": "/run/libvirt/virtlogd-sock", "libvirtd": "/run/libvirt/libvirt-sock"}
SYSTEM_BUS = Path("/run/dbus/system_bus_socket")
SYSTEM_CONFIG = Path("/etc/libvirt/libvirtd.conf")
GROUP_ACCESS = """\
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_rw = "none"
"""
QEMU_USER = "libvirt-qemu"  # on Debian and Ubuntu
ANSWER_TIMEOUT_S = 10
END_TIMEOUT_S = 15


def answers() -> bool:
    return _virsh("version").returncode == 0


def _run_file(name: str) -> Path:
    """In a folder of root's own: libvirt's daemons write and read theirs as root."""
    return Path(f"/run/kvmweb-{hashlib.sha256(str(VAR).encode()).hexdigest()[:12]}-{name}")


def _pid_file(name: str) -> Path:
    return _run_file(f"{name}.pid")


def _start_daemon(name: str, step: say.Step) -> None:
    """Start one daemon as root, in the background, and remember it for ``down``."""
    pid_file = _pid_file(name)
    noted = processes.read_started().get("daemons", [])
    # Before it runs: should we be killed meanwhile, `down` still knows of it.
    processes.note_started(daemons=[*noted, *({name} - set(noted))])
    command = [shutil.which(name) or f"/usr/sbin/{name}", "-d", "-p", str(pid_file)]
    if name == "libvirtd" and not system.is_root() and not SYSTEM_BUS.exists():
        command += ["-f", str(_config_without_polkit())]
    say.run(
        system.as_root(command),
        step=step,
        log=LOGS / "libvirt.log",
        advice=f"run it by hand to see why: {name} -v",
    )


def _let_libvirt_open_kvm() -> None:
    """What udev would have done, where there is none: libvirt's account may open /dev/kvm.

    Without it libvirt finds KVM there and not there by turns, and looks at QEMU anew for each
    domain it defines or starts, which takes a minute on a slow machine. An ACL takes nothing from
    those who have access already.
    """
    if not Path("/dev/kvm").exists() or Path("/run/udev/control").exists():
        return
    as_libvirt = ["setpriv", f"--reuid={QEMU_USER}", f"--regid={QEMU_USER}", "--init-groups"]
    may = subprocess.run(
        system.as_root([*as_libvirt, "test", "-w", "/dev/kvm"]), capture_output=True, check=False
    )
    if may.returncode:
        acl = system.as_root(["setfacl", "--modify", f"u:{QEMU_USER}:rw", "/dev/kvm"])
        if subprocess.run(acl, capture_output=True, check=False).returncode == 0:
            processes.note_started(acl=True)


def _config_without_polkit() -> Path:
    """This machine's libvirtd.conf, but with the group ``libvirt`` in place of polkit.

    polkit is asked over the system bus, which needs a running system around it.
    """
    own = subprocess.run(
        system.as_root(["cat", str(SYSTEM_CONFIG)]), capture_output=True, text=True, check=False
    ).stdout
    keys = tuple(line.split()[0] for line in GROUP_ACCESS.splitlines())
    lines = [line for line in own.splitlines() if not line.strip().startswith(keys)]
    path = _run_file("libvirtd.conf")
    subprocess.run(
        system.as_root(["tee", str(path)]),
        input=GROUP_ACCESS + "\n".join(lines) + "\n",
        text=True,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return path


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
                if name == "libvirtd":
                    _let_libvirt_open_kvm()
                if not _listens(name):
                    _start_daemon(name, step)
        end = time.monotonic() + 30
        while not answers():
            if time.monotonic() > end:
                why = _virsh("version").stderr.strip().splitlines()
                raise say.StepFailed(
                    "libvirt does not answer at qemu:///system: " + (why[-1] if why else ""),
                    "see why: virsh -c qemu:///system version — or use ./scripts/up --lab 1",
                )
            time.sleep(0.3)
    _ensure_network()


def _listens(name: str) -> bool:
    """By its socket: a lab's daemons have the same names, and are none of ours."""
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    argv = system.as_root([sys.executable, "-c", connect, DAEMONS[name]])
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _virsh(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["virsh", "-q", "-c", URI, *words]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        silent = f"no answer within {ANSWER_TIMEOUT_S} s"
        return subprocess.CompletedProcess(argv, returncode=1, stdout="", stderr=silent)


def _ensure_network() -> None:
    """Start ``default`` where it is stopped. What stops it is told on the host's page."""
    if "default" in _virsh("net-list", "--name").stdout.split():
        return
    definition = Path("/usr/share/libvirt/networks/default.xml")
    if "default" not in _virsh("net-list", "--all", "--name").stdout.split():
        _virsh("net-define", str(definition))
    if _virsh("net-start", "default").returncode == 0:
        processes.note_started(network=True)


def stop_network() -> bool:
    """Stop ``default`` where ``up`` had started it, unless a machine is on."""
    if not processes.read_started().get("network") or _virsh("list", "--name").stdout.strip():
        return False
    return _virsh("net-destroy", "default").returncode == 0


def stop_started() -> list[str]:
    """End the daemons that ``up`` started; returns their names."""
    ended = []
    for name in reversed(processes.read_started().get("daemons", [])):
        pid = _running_pid(name)
        if pid is None:
            continue
        subprocess.run(system.as_root(["kill", str(pid)]), check=False)
        end = time.monotonic() + END_TIMEOUT_S
        while _running_pid(name) == pid:
            if time.monotonic() > end:
                subprocess.run(system.as_root(["kill", "-9", str(pid)]), check=False)
                break
            time.sleep(0.1)
        left = [str(_pid_file(name)), str(_run_file(f"{name}.conf"))]
        subprocess.run(system.as_root(["rm", "-f", *left]), check=False)
        ended.append(name)
    if processes.read_started().get("acl"):
        acl = ["setfacl", "--remove", f"u:{QEMU_USER}", "/dev/kvm"]
        subprocess.run(system.as_root(acl), capture_output=True, check=False)
    return ended


def _running_pid(name: str) -> int | None:
    """The daemon that we started, by its own pid file; None when it has ended."""
    try:
        pid = int(_pid_file(name).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(_pid_file(name)).encode() in words else None


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
    shown = subprocess.run(
        lab("status", "--json"), capture_output=True, text=True, check=True
    ).stdout
    found: list[dict[str, str]] = json.loads(shown)
    return found


def lab_down(*, purge: bool) -> None:
    done = subprocess.run(
        lab("down", *(["--purge"] if purge else [])), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise say.StepFailed(
            "the lab does not end: " + done.stderr.strip()[-300:],
            "try again: ./scripts/down; nothing else was removed",
        )
