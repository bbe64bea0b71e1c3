"""“Show command” of backups: the lines that each dialog equals (see ``vms.commands``)."""

from __future__ import annotations

import shlex

from vms import commands
from vms.backups import services
from vms.models import VM, Backup, Disk, Image
from vms.state import ON


def show_take(vm: VM) -> list[str]:
    """Of its disks, as they are now."""
    disks = list(vm.disks.all())
    copies = {
        disk.target: _place(vm, disk, f"{vm.domain_name}-backup-{disk.target}.qcow2")
        for disk in disks
    }
    if not disks:
        return []
    checksum = shlex.join(["sha256sum", *copies.values()])
    if vm.observed not in ON:
        return [*(_convert(_file(disk), copies[disk.target]) for disk in disks), checksum]
    xml = "".join(
        f"<disk name='{target}' type='file'><target file='{copy}'/><driver type='qcow2'/></disk>"
        for target, copy in copies.items()
    )
    xml = f"<domainbackup mode='push'><disks>{xml}</disks></domainbackup>"
    virsh = ["virsh", "-c", commands.URI]
    return [
        f"echo {shlex.quote(xml)} > backup.xml",
        shlex.join([*virsh, "backup-begin", vm.domain_name, "backup.xml"]),
        f"{shlex.join([*virsh, 'event', vm.domain_name, 'job-completed'])} --timeout 600",
        checksum,
    ]


def show_act(backup: Backup, word: str, *, name: str = "") -> list[str]:
    """``restore`` over the machine, ``new`` of that name, ``attach`` its first disk to the machine
    of that name, or ``delete``."""
    vm = backup.vm
    files = {target: _place_of(backup, image) for target, image in backup.files}
    if word == "delete":
        return [shlex.join(["rm", *files.values()])]
    checked = [_checked(image, files[target]) for target, image in backup.files]
    disks = {disk.target: _file(disk) for disk in vm.disks.all()}
    if word == "restore":
        return [*checked, *(_convert(file, disks[t]) for t, file in files.items() if t in disks)]
    folder = _folder(vm)
    if word == "attach":
        made = f"{folder}/{name}-more.qcow2"
        first = next(iter(files.values()))
        plug = ["virsh", "-c", commands.URI, "attach-disk", name, made, "vdb"]
        return [
            checked[0],
            _convert(first, made),
            shlex.join([*plug, "--subdriver", "qcow2", "--persistent"]),
        ]
    made_of = {target: f"{folder}/{name}-{target}.qcow2" for target in files}
    clone = ["virt-clone", "--connect", commands.URI, "--original", vm.domain_name]
    into = [word for made in made_of.values() for word in ("--file", made)]
    return [
        *checked,
        *(_convert(file, made_of[target]) for target, file in files.items()),
        shlex.join([*clone, "--name", name, "--preserve-data", *into]),
    ]


def _checked(image: Image, file: str) -> str:
    return f"echo {shlex.quote(f'{image.checksum}  {file}')} | sha256sum -c"


def _convert(source: str, target: str) -> str:
    return shlex.join(["qemu-img", "convert", "-p", "-O", "qcow2", source, target])


def _file(disk: Disk) -> str:
    return f"{disk.pool.path if disk.pool else commands.POOL_PATH}/{disk.volume}"


def _folder(vm: VM) -> str:
    disk = next(iter(vm.disks.all()), None)
    return disk.pool.path if disk is not None and disk.pool else commands.POOL_PATH


def _place(vm: VM, disk: Disk, name: str) -> str:
    """Where a backup goes: the host's place for them, or beside the disk."""
    chosen = vm.host.backup_pool if vm.host else None
    pool = chosen or disk.pool
    return f"{pool.path if pool else commands.POOL_PATH}/{name}"


def _place_of(backup: Backup, image: Image) -> str:
    pool = services.place_of(image)
    return f"{pool.path if pool else _folder(backup.vm)}/{image.volume_name}"
