"""A host as a whole: up, down, dead, and what it has when it is up."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from . import config, daemons, faults, network
from .layout import HOST_NAMES, Host, Lab
from .namespaces import (
    end_processes,
    keeper,
    kill_processes,
    lab_namespaces,
    make_namespace,
    processes,
    remove_namespace,
    run_inside,
    start_keeper,
)
from .shell import LabError

Say = Callable[[str], None]

NETWORK_XML = """\
<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <ip address='{subnet}.1' netmask='255.255.255.0'>
    <dhcp><range start='{subnet}.2' end='{subnet}.254'/></dhcp>
  </ip>
</network>
"""


def up_lab(lab: Lab, count: int, *, pool_size: str | None, say: Say) -> list[Host]:
    """At least ``count`` hosts, all of them healthy: the dead are rebuilt, the cut are mended."""
    if not 1 <= count <= len(HOST_NAMES):
        raise LabError(f"A lab has 1 to {len(HOST_NAMES)} hosts, not {count}.")
    lab.create()
    names = sorted({host.name for host in lab.hosts} | set(HOST_NAMES[:count]))
    lab.save({**lab.state(), "hosts": names})
    config.make_keys(lab)
    network.build_switch(lab)
    hosts = [Host(lab, name) for name in names]
    for host in hosts:
        up(host, pool_size=pool_size, say=say)
    return hosts


def down_lab(lab: Lab, *, purge: bool, say: Say) -> None:
    """End all that carries the lab's id, also what its state file has forgotten."""
    hosts = {host.namespace: host for host in lab.hosts}
    for namespace in lab_namespaces(lab):
        if namespace == lab.switch_namespace:
            continue
        name = namespace.rpartition("-")[2]
        say(f"Stopping host {name}")
        down(hosts.get(namespace, Host(lab, name)))
    remove_namespace(lab.switch_namespace)
    shutil.rmtree(lab.run_folder, ignore_errors=True)
    if not lab.state():
        return
    if purge:
        # Only what the lab made: the folder may be one that a person chose.
        for name in HOST_NAMES:
            shutil.rmtree(lab.folder / name, ignore_errors=True)
        shutil.rmtree(lab.ssh_key.parent, ignore_errors=True)
        lab.state_file.unlink()
        if not any(lab.folder.iterdir()):
            lab.folder.rmdir()
    else:
        lab.save({**lab.state(), "hosts": []})


def up(host: Host, *, pool_size: str | None, say: Say) -> None:
    if keeper(host) is None:
        say(f"Starting host {host.name}")
        down(host)  # whatever a dead host left
        config.write(host)
        _set_pool_size(host, pool_size)
        make_namespace(host.namespace)
        start_keeper(host)
    elif pool_size is not None and pool_size != _pool_size(host):
        raise LabError(
            f"Host {host.name} runs with another pool size; `scripts/lab down --purge` first."
        )
    else:
        faults.mend(host)
    network.join(host)
    daemons.start(host)
    _make_default_network(host)
    _make_default_pool(host)


def down(host: Host) -> None:
    end_processes(host.namespace)
    network.leave(host)
    remove_namespace(host.namespace)
    shutil.rmtree(host.run_folder, ignore_errors=True)


def kill(host: Host) -> None:
    """A power cut: every process of the host gets SIGKILL. Its disks and definitions stay."""
    kill_processes(host.namespace)


def describe(host: Host) -> dict[str, object]:
    """What a test or `scripts/up` needs to use the host."""
    return {
        "name": host.name,
        "uri": host.uri,
        "socket_path": str(host.socket),
        "uuid": host.uuid,
        "running": keeper(host) is not None,
        "reach": faults.reach(host),
        "guests": len(_guests(host)),
        "subnet": f"{host.subnet}.0/24",
        "site_address": host.site_address,
        "ssh": {
            "host": host.ssh_address,
            "port": network.SSH_PORT,
            "user": "root",
            "key": str(host.lab.ssh_key),
            "known_hosts": str(host.lab.known_hosts),
        },
    }


def _guests(host: Host) -> list[int]:
    # A process's name has 15 characters at most: qemu-system-x86_64 is cut there.
    return processes(host.namespace, command="qemu-system-x86")


def _make_default_network(host: Host) -> None:
    if "default" not in run_inside(host, "virsh", "net-list", "--all", "--name").stdout.split():
        xml = host.folder / "default-network.xml"
        xml.write_text(NETWORK_XML.format(subnet=host.subnet))
        run_inside(host, "virsh", "net-define", str(xml))
        run_inside(host, "virsh", "net-autostart", "default")
    if "default" not in run_inside(host, "virsh", "net-list", "--name").stdout.split():
        run_inside(host, "virsh", "net-start", "default")


def _make_default_pool(host: Host) -> None:
    if "default" not in run_inside(host, "virsh", "pool-list", "--all", "--name").stdout.split():
        target = "/var/lib/libvirt/images"
        run_inside(host, "virsh", "pool-define-as", "default", "dir", "--target", target)
        run_inside(host, "virsh", "pool-autostart", "default")
    if "default" not in run_inside(host, "virsh", "pool-list", "--name").stdout.split():
        run_inside(host, "virsh", "pool-start", "default")


def _pool_size(host: Host) -> str | None:
    size_file = host.folder / "pool-size"
    return size_file.read_text().strip() if size_file.exists() else None


def _set_pool_size(host: Host, size: str | None) -> None:
    if size is None:
        return
    if (host.folder / "pool.ext4").exists() and size != _pool_size(host):
        raise LabError(
            f"Host {host.name} has a pool of another size; `scripts/lab down --purge` removes it."
        )
    (host.folder / "pool-size").write_text(size)
