"""Breaking a host's reachability on purpose, while it and its guests go on."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

from . import daemons, network
from .layout import Host
from .namespaces import keeper, processes, run_inside, send
from .shell import LabError

SOCKETS = ("libvirt-sock", "libvirt-sock-ro")
ADMIN_URI = "libvirtd:///system?socket=/run/libvirt/libvirt-admin-sock"
CUT_SUFFIX = ".cut"


def cut(host: Host, how: str) -> None:
    """``refuse``: connections are dropped, new ones refused. ``hang``: nothing answers."""
    if reach(host) != "ok":
        raise LabError(f"Host {host.name} is already not reachable ({reach(host)}).")
    network.cut_ssh(host, hang=how == "hang")
    if how == "hang":
        # The kernel still accepts connections for the frozen daemon; nobody answers on them.
        send(host.namespace, signal.SIGSTOP, command="libvirtd")
        return
    for name in SOCKETS:
        path = host.run_folder / name
        if path.exists():
            path.rename(_aside(path))  # the daemon goes on listening on it
            _dead_socket(path)
    _disconnect_clients(host)


def mend(host: Host) -> None:
    """Undo ``cut``. Harmless when nothing was cut."""
    network.mend_ssh(host)
    send(host.namespace, signal.SIGCONT, command="libvirtd")
    for name in SOCKETS:
        path = host.run_folder / name
        if _aside(path).exists():
            _aside(path).rename(path)


def restart_libvirtd(host: Host, *, kill: bool) -> None:
    stop_libvirtd(host, kill=kill)
    daemons.start_libvirtd(host)


def stop_libvirtd(host: Host, *, kill: bool) -> None:
    """As when its service is stopped (or crashes, with ``kill``); a cut is over by it."""
    mend(host)
    daemons.stop_libvirtd(host, kill=kill)


def reach(host: Host) -> str:
    """``ok``, ``refuse`` or ``hang`` (cut so), ``stopped`` (no libvirtd), ``dead`` (no host)."""
    if keeper(host) is None:
        return "dead"
    daemon = processes(host.namespace, command="libvirtd")
    if not daemon:
        return "stopped"
    if _aside(host.run_folder / SOCKETS[0]).exists():
        return "refuse"
    return "hang" if all(_is_frozen(pid) for pid in daemon) else "ok"


def _aside(path: Path) -> Path:
    return path.with_name(path.name + CUT_SUFFIX)


def _dead_socket(path: Path) -> None:
    """A socket that nobody listens on: connecting to it is refused."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.chmod(0o770)


def _disconnect_clients(host: Host) -> None:
    admin = ("virt-admin", "-c", ADMIN_URI)
    clients = run_inside(host, *admin, "client-list", "libvirtd").stdout
    for number in re.findall(r"^\s*(\d+)\s", clients, flags=re.MULTILINE):
        # Not checked: the client may have gone by itself meanwhile.
        run_inside(host, *admin, "client-disconnect", "libvirtd", number, check=False)


def _is_frozen(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"
