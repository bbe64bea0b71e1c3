"""The first thing that runs in a host's namespaces: mounts and a name; then it sleeps as keeper.

Started by ``namespaces.start_keeper`` as ``python -m kvmlab.inside DIR HOST KEEPER_NAME``, already
in the host's network, mount and UTS namespaces.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from .layout import Host, Lab
from .shell import LabError, run

HOST_FOLDERS = {
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
    "etc": "/etc/libvirt",
}
ETC_FILES = ("hosts", "resolv.conf", "shadow")
POOL_FOLDER = "/var/lib/libvirt/images"
LIB_FOLDERS = ("images", "boot", "qemu", "dnsmasq", "network", "sanlock")


def main() -> None:
    folder, name, keeper_name = sys.argv[1:]
    host = Host(Lab(Path(folder)), name)
    _mount_sys()
    # Without the system bus libvirt asks neither machined nor firewalld, which are this
    # machine's and would mix up the machines of several labs.
    if Path("/run/dbus").is_dir():
        run(["mount", "-t", "tmpfs", "tmpfs", "/run/dbus"])
    for source, target in HOST_FOLDERS.items():
        _bind(host.folder / source, Path(target))
    _bind(host.run_folder, Path("/run/libvirt"))
    for name_in_etc in ETC_FILES:
        file = Path("/etc") / name_in_etc
        if file.exists():
            run(["mount", "--bind", str(host.folder / "etc-files" / name_in_etc), str(file)])
    for wanted in LIB_FOLDERS:
        (Path("/var/lib/libvirt") / wanted).mkdir(exist_ok=True)
    # Debian's package brings it; a domain's serial log goes there before libvirt makes it.
    Path("/var/log/libvirt/qemu").mkdir(exist_ok=True)
    _mount_pool(host)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    socket.sethostname(host.name)
    _become_keeper(host, keeper_name)


def _mount_sys() -> None:
    """A /sys of this network namespace, and without cgroups.

    libvirt would name a guest's cgroup after its id and name, the same on every lab host.
    """
    run(["umount", "--recursive", "--lazy", "/sys"], check=False)
    run(["mount", "-t", "sysfs", "sysfs", "/sys"])


def _bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", str(source), str(target)])


def _mount_pool(host: Host) -> None:
    """The pool's own small file system, for a host that should run out of room."""
    size_file = host.folder / "pool-size"
    if not size_file.exists():
        return
    size = size_file.read_text().strip()
    image = host.folder / "pool.ext4"
    if not image.exists():
        run(["truncate", "-s", size, str(image)])
        run(["mkfs.ext4", "-q", "-m", "0", "-F", str(image)])
    mounted = run(["mount", "-o", "loop", str(image), POOL_FOLDER], check=False)
    if mounted.returncode:  # a container may have no loop devices
        run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", POOL_FOLDER])


def _become_keeper(host: Host, keeper_name: str) -> None:
    """Sleep for ever under a name of our own, at a hundredth of an interpreter's memory."""
    sleep = shutil.which("sleep")
    if sleep is None:
        raise LabError("sleep is not installed on this machine.")
    link = host.run_folder / keeper_name
    link.unlink(missing_ok=True)
    link.symlink_to(sleep)
    os.chdir("/")  # where what enters the host begins
    os.execv(link, ["sleep", "infinity"])


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(str(error))
