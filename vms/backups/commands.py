"""“Show command” of backups: the lines that each dialog equals (see ``vms.commands``)."""

from __future__ import annotations

import shlex

from vms import commands
from vms.models import VM, Backup, Disk
from vms.state import ON


def show_take(vm: VM) -> list[str]:
    """Of the disk, as it is now."""
    disk = _disk(vm)
    if disk is None:
        return []
    source, copy = _path(vm, disk.volume), _path(vm, f"{vm.domain_name}-backup.qcow2")
    checksum = shlex.join(["sha256sum", copy])
    if vm.observed not in ON:
        return [shlex.join(["qemu-img", "convert", "-p", "-O", "qcow2", source, copy]), checksum]
    xml = (
        f"<domainbackup mode='push'><disks><disk name='{disk.target}' type='file'>"
        f"<target file='{copy}'/><driver type='qcow2'/></disk></disks></domainbackup>"
    )
    virsh = ["virsh", "-c", commands.URI]
    return [
        f"echo {shlex.quote(xml)} > backup.xml",
        shlex.join([*virsh, "backup-begin", vm.domain_name, "backup.xml"]),
        f"{shlex.join([*virsh, 'event', vm.domain_name, 'block-job'])} --timeout 600",
        checksum,
    ]


def show_act(backup: Backup, word: str, *, name: str = "") -> list[str]:
    """``restore`` over the machine, ``new`` of that name, or ``delete``."""
    vm, disk = backup.vm, _disk(backup.vm)
    if disk is None:
        return []
    file = _path(vm, backup.image.volume_name)
    if word == "delete":
        return [shlex.join(["rm", file])]
    checked = f"echo {shlex.quote(f'{backup.image.checksum}  {file}')} | sha256sum -c"
    convert = ["qemu-img", "convert", "-p", "-O", "qcow2", file]
    if word == "restore":
        return [checked, shlex.join([*convert, _path(vm, disk.volume)])]
    made = _path(vm, f"{name}.qcow2")
    clone = ["virt-clone", "--connect", commands.URI, "--original", vm.domain_name]
    return [
        checked,
        shlex.join([*convert, made]),
        shlex.join([*clone, "--name", name, "--preserve-data", "--file", made]),
    ]


def _disk(vm: VM) -> Disk | None:
    return next(iter(vm.disks.all()), None)


def _path(vm: VM, volume: str) -> str:
    disk = _disk(vm)
    return f"{disk.pool.path if disk and disk.pool else commands.POOL_PATH}/{volume}"
