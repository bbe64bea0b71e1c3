"""What a host runs: virtlogd, libvirtd, sshd. Each is found again by its name and namespace."""

from __future__ import annotations

from .layout import Host
from .namespaces import end_processes, kill_processes, processes, run_inside
from .shell import wait_for

START_TIMEOUT_S = 30


def start(host: Host) -> None:
    """Start whatever does not run."""
    if not is_running(host, "virtlogd"):
        run_inside(host, "virtlogd", "--daemon", "--pid-file", "/run/libvirt/virtlogd.pid")
    start_libvirtd(host)
    if not is_running(host, "sshd"):
        # sshd wants to be called by its full path, which it needs to start itself again.
        run_inside(host, "/usr/sbin/sshd", "-f", "/etc/libvirt/ssh/sshd_config")


def start_libvirtd(host: Host) -> None:
    if not is_running(host, "libvirtd"):
        # --daemon returns when the socket listens, or with the error. The monolithic daemon, on
        # every release: one socket for everything, and one process to break.
        run_inside(host, "libvirtd", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid")

    def answers() -> bool:
        return run_inside(host, "virsh", "-q", "uri", check=False).returncode == 0

    wait_for(answers, what=f"host {host.name}'s libvirtd to answer", timeout_s=START_TIMEOUT_S)


def stop_libvirtd(host: Host, *, kill: bool = False) -> None:
    """End libvirtd alone; guests, dnsmasq and virtlogd go on."""
    if kill:
        kill_processes(host.namespace, command="libvirtd")
    else:
        end_processes(host.namespace, command="libvirtd")


def is_running(host: Host, command: str) -> bool:
    """Whether the daemon runs: sessions of sshd have its name too, so its pid file decides."""
    found = processes(host.namespace, command=command)
    if command != "sshd":
        return bool(found)
    try:
        return int((host.run_folder / "sshd.pid").read_text()) in found
    except (FileNotFoundError, ValueError):
        return False
