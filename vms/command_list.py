"""All that can be done to one machine, each with the command lines that it equals."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from accounts import policy
from accounts.policy import Action
from vms import commands, discs, flattening, keys
from vms.commands import POOL_PATH, URI
from vms.models import VM
from vms.moving import requests as moving
from vms.ports import rules as ports
from vms.presentation import verb_label
from vms.state import ON
from vms.verbs import Verb

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, kw_only=True)
class ShownCommand:
    key: str  # a verb of ``vms.verbs``, or what else is done to it
    label: str
    lines: list[str]


def of(vm: VM, user: User) -> list[ShownCommand]:
    """Names that are still to be chosen are examples. Raises NotFound, Forbidden."""
    policy.require(user, Action.POWER, vm)
    shown = [(verb.value, verb_label(verb), commands.show_verb(vm, verb.value)) for verb in Verb]
    disk = next(iter(vm.disks.all()), None)
    nic = next(iter(vm.nics.all()), None)
    example = f"{vm.name}-2"
    shown += [
        ("bin", _("Move to the recycle bin"), commands.show_verb(vm, "bin")),
        ("shutdown_agent", _("Shut down by the agent"), commands.show_guest(vm, "shutdown")),
        ("keys", _("Send keys"), commands.show_keys(vm, keys.PRESETS["ctrl-alt-delete"])),
        ("guest", _("Guest"), commands.show_guest(vm, "facts")),
        (
            "guest_password",
            _("Set a password"),
            commands.show_guest(vm, "password", user=vm.first_user or "root"),
        ),
        ("insert", _("Insert a disc"), commands.show_disc(vm, discs.choices(user).first())),
        ("eject", _("Eject"), commands.show_disc(vm, None)),
        (
            "size",
            _("Change size"),
            commands.show_setting(vm, "size", vcpus=vm.vcpus, memory_mib=vm.memory_mib),
        ),
        ("disk-grow", _("Grow disk"), commands.show_setting(vm, "disk-grow", disk=disk)),
        (
            "nic-add",
            _("Add network card"),
            commands.show_setting(vm, "nic-add", network=nic.network if nic else "default"),
        ),
        ("cable", _("Unplug cable"), _cable(vm, nic.mac) if nic else []),
        ("port", _("Publish port"), commands.show_port(vm, 22) if ports.is_on() else []),
        ("autostart", _("Autostart"), _virsh(vm, "autostart")),
        ("rename", _("Rename"), _virsh(vm, "domrename", example)),
        ("description", _("Description"), _virsh(vm, "desc", "--config", vm.description)),
        (
            "snapshot",
            _("Take snapshot"),
            commands.show_snapshot(vm, "take", "before", memory=vm.observed in ON),
        ),
        ("revert", _("Go back"), commands.show_snapshot(vm, "revert", "before")),
        ("snapshot_delete", _("Delete snapshot"), commands.show_snapshot(vm, "delete", "before")),
        ("clone", _("Clone"), [] if vm.observed in ON else _clone(vm, example)),
        ("backup", _("Back up"), _backup(vm)),
        ("template", _("Make template"), _copy(vm, f"{vm.name}-template.qcow2")),
        ("flatten", _("Make independent"), flattening.show(vm)),
        ("migrate", _("Move to another host"), moving.show(vm, None)),
        ("console", _("Console"), commands.show_console(vm)),
        ("xml", "XML", commands.show_definition(vm, "stored")),
    ]
    return [ShownCommand(key=key, label=label, lines=lines) for key, label, lines in shown if lines]


def _virsh(vm: VM, command: str, *words: str) -> list[str]:
    return [shlex.join(["virsh", "-c", URI, command, vm.domain_name, *words])]


def _clone(vm: VM, name: str) -> list[str]:
    return commands.show_clone(vm, name=name, copy="full", start=False)


def _cable(vm: VM, mac: str) -> list[str]:
    scope = [] if vm.observed in ON else ["--config"]
    return _virsh(vm, "domif-setlink", mac, "down", *scope)


def _backup(vm: VM) -> list[str]:
    """Of one that runs: beside its disk, named by libvirt."""
    if vm.observed in ON:
        return [*_virsh(vm, "backup-begin"), *_virsh(vm, "domjobinfo")]
    return _copy(vm, f"{vm.name}-backup.qcow2")


def _copy(vm: VM, name: str) -> list[str]:
    disk = next(iter(vm.disks.all()), None)
    if disk is None:
        return []
    folder = disk.pool.path if disk.pool else POOL_PATH
    convert = ["qemu-img", "convert", "-p", "-f", disk.format, "-O", "qcow2"]
    return [shlex.join([*convert, f"{folder}/{disk.volume}", f"{folder}/{name}"])]
