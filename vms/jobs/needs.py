"""What each kind of job needs of the person who asks for it, with its machine: the same that its
service asks before it waits for the locks. ``jobs.services.enqueue`` asks again after them."""

from __future__ import annotations

from collections.abc import Mapping

from accounts.policy import Action

_KINDS: Mapping[Action | None, tuple[str, ...]] = {
    # They make a machine (who makes one must be allowed to in the team), or nobody asks for them.
    None: ("vm.create", "vm.clone", "vm.end_lease", "vm.stop_idle", "host.leave"),
    Action.POWER: (
        "vm.discard_saved",
        "vm.eject",
        "vm.force_off",
        "vm.nmi",
        "vm.reboot",
        "vm.reset",
        "vm.restart",
        "vm.resume",
        "vm.save",
        "vm.shutdown",
        "vm.start",
        "vm.start_paused",
        "vm.suspend",
        "vm.trim",
    ),
    Action.MOVE: ("vm.migrate",),
    Action.CONSOLE_CONTROL: ("vm.send_keys",),
    Action.EDIT: (
        "template.make",
        "vm.autostart",
        "vm.backup",
        "vm.boot_order",
        "vm.disk_add",
        "vm.disk_from_backup",
        "vm.disk_grow",
        "vm.disk_remove",
        "vm.flatten",
        "vm.guest_password",
        "vm.insert",
        "vm.lend",
        "vm.nic_add",
        "vm.nic_change",
        "vm.nic_remove",
        "vm.resize",
        "vm.snapshot",
        "vm.snapshot_delete",
        "vm.snapshot_revert",
    ),
    Action.DELETE: (
        "vm.bin",
        "vm.delete",
        "vm.restore_backup",
        "vm.take_back",
    ),
}
NEEDS = {kind: action for action, kinds in _KINDS.items() for kind in kinds}


def of(kind: str) -> Action | None:
    """One that has no line yet (a test says so) asks at least for a machine that they see."""
    return NEEDS.get(kind, Action.SEE)
