"""A host's namespaces: made, entered, and its processes found and ended.

The network namespace has a name (``ip netns``), which pins it: as long as the name is there, no
other namespace can have its inode. So "every process in this network namespace" is exactly the
host's own daemons and guests, and a recycled process id can never be hit: each signal goes
through a pidfd whose namespace was looked at after it was opened.

The mount and UTS namespaces are kept by one sleeping process, the host's *keeper*.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .layout import Host, Lab
from .shell import LabError, run, wait_for

NETNS_FOLDER = Path("/run/netns")
KEEPER_NAME = "kvmlab-keeper"
KEEPER_TIMEOUT_S = 20
END_TIMEOUT_S = 10


def make_namespace(name: str) -> None:
    if _pinned(name) is not None:
        return
    # A name left by an earlier boot is a plain file that pins nothing.
    (NETNS_FOLDER / name).unlink(missing_ok=True)
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def remove_namespace(name: str) -> None:
    if (NETNS_FOLDER / name).exists():
        run(["ip", "netns", "del", name])


def processes(namespace: str, *, command: str | None = None) -> list[int]:
    """Ids of the processes in the namespace, or of those whose ``comm`` is ``command``."""
    pinned = _pinned(namespace)
    if pinned is None:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _namespace_of(int(entry.name)) == pinned:
            comm = _comm(int(entry.name))
            if comm is not None and command in {None, comm}:
                found.append(int(entry.name))
    return sorted(found)


def send(namespace: str, number: signal.Signals, *, command: str | None = None) -> int:
    """Signal those processes; returns how many there were."""
    count = 0
    for pid in processes(namespace, command=command):
        with _held(pid) as handle:
            # Looked at again now that the pidfd holds the process: the id may have been re-used.
            if handle is not None and _namespace_of(pid) == _pinned(namespace):
                _signal(handle, number)
                count += 1
    return count


def end_processes(namespace: str, *, command: str | None = None) -> None:
    """SIGTERM, a moment, SIGKILL. Frozen ones are woken so that they can hear."""
    if not send(namespace, signal.SIGTERM, command=command):
        return
    send(namespace, signal.SIGCONT, command=command)
    try:
        wait_for(
            lambda: not processes(namespace, command=command), what="", timeout_s=END_TIMEOUT_S
        )
    except LabError:
        kill_processes(namespace, command=command)


def kill_processes(namespace: str, *, command: str | None = None) -> None:
    def gone() -> bool:
        # Again each time: what was being started while we looked is found the next time.
        return send(namespace, signal.SIGKILL, command=command) == 0

    wait_for(gone, what=f"the processes of {namespace} to end", timeout_s=END_TIMEOUT_S)


def keeper(host: Host) -> int | None:
    """The id of the process that holds the host's mount and UTS namespaces."""
    found = processes(host.namespace, command=KEEPER_NAME)
    return found[0] if found else None


def start_keeper(host: Host) -> None:
    """Make the host's mount and UTS namespaces, set up within by ``inside``."""
    log = host.folder / "keeper.log"
    with log.open("w") as output:
        child = subprocess.Popen(
            [
                *("nsenter", f"--net={NETNS_FOLDER / host.namespace}"),
                *("unshare", "--mount", "--uts", "--propagation", "private", "--"),
                *(sys.executable, "-B", "-m", "kvmlab.inside"),
                *(str(host.lab.folder), host.name, KEEPER_NAME),
            ],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def settled() -> bool:
        return child.poll() is not None or keeper(host) is not None

    wait_for(settled, what=f"host {host.name}'s namespaces", timeout_s=KEEPER_TIMEOUT_S)
    if child.poll() is not None:
        raise LabError(f"Host {host.name} could not be set up: {log.read_text().strip()}")


def enter(host: Host, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` inside the host."""
    pid = keeper(host)
    if pid is None:
        raise LabError(f"Host {host.name} does not run; `scripts/lab up` brings it back.")
    # With the keeper's root: without it, a lab in a chroot would act on the machine around it.
    spaces = ["--mount", "--uts", "--net", "--root", "--wd"]
    return ["nsenter", f"--target={pid}", *spaces, "--", *argv]


def run_inside(host: Host, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(enter(host, argv), check=check)


def lab_namespaces(lab: Lab) -> list[str]:
    """Every namespace that carries the lab's id, whatever its state file says."""
    if not NETNS_FOLDER.is_dir():
        return []
    return sorted(p.name for p in NETNS_FOLDER.glob(f"{lab.switch_namespace}*"))


def _pinned(name: str) -> tuple[int, int] | None:
    try:
        seen = (NETNS_FOLDER / name).stat()
        outside = NETNS_FOLDER.stat()
    except FileNotFoundError:
        return None
    # A mounted namespace lies on nsfs; a mere file lies where its folder does.
    return None if seen.st_dev == outside.st_dev else (seen.st_dev, seen.st_ino)


def _namespace_of(pid: int) -> tuple[int, int] | None:
    try:
        seen = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return (seen.st_dev, seen.st_ino)


def _comm(pid: int) -> str | None:
    """The process's name; None when it has ended or is a zombie (its parent's to bury)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return None if rest.split()[0] == "Z" else name


@contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A pidfd for the time of a ``with``; None when the process is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _signal(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
