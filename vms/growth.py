"""What an action would take of the quota, before anybody does it: for its form, and as a dry run.

The amounts are those that the action itself asks for. What it could not be done for at all (a size
below the present one, a machine that is busy) is not looked at: the action says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from accounts import policy, quotas, requests
from accounts.errors import NotFound
from accounts.models import Resource, Team, User
from accounts.policy import Action
from accounts.quotas import Ask, Impact
from vms import queries, recycle_bin
from vms.backups import services as backups
from vms.cloning import requests as cloning
from vms.hardware import requests as hardware
from vms.machine_templates import services as templates
from vms.models import VM
from vms.provisioning.request import create_ask
from vms.snapshots import requests as snapshots
from vms.state import running_ask


@dataclass(frozen=True, kw_only=True)
class About:
    """What the form of the action says. ``size_gib``: of a new disk, or of one when it has grown.
    ``machine``: which gets a backup's disk. ``team``: which pays for a clone."""

    size_gib: int = 0
    vcpus: int | None = None
    memory_mib: int | None = None
    disk: str = ""
    snapshot: int = 0
    backup: int = 0
    machine: UUID | str = ""
    team: Team | None = None
    into: int = 0
    start: bool = False


@dataclass(frozen=True, kw_only=True)
class Growth:
    team: Team
    impacts: list[Impact]
    more: str  # the address of a request that asks for what is missing, "" where none would help

    @property
    def fits(self) -> bool:
        return not any(one.missing for one in self.impacts)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Who pays for how much."""

    team: Team
    user: User
    ask: Ask


def of(uuid: UUID | str, action: str, *, actor: User, about: About) -> Growth:
    """Raises NotFound, Forbidden."""
    if action not in ACTIONS:
        raise NotFound
    vm = backups.machine(actor, uuid) if action in _OF_BACKUPS else queries.one(actor, uuid)
    needed = {"start": Action.POWER, "bin-restore": Action.DELETE}.get(action, Action.EDIT)
    policy.require(actor, needed, vm)
    found = ACTIONS[action](vm, actor, about)
    impacts = quotas.preview(found.team, found.user, found.ask)
    more = requests.prefilled_for(found.team, impacts, asker=actor, owner=found.user)
    return Growth(team=found.team, impacts=impacts, more=more)


# --- inside: each as its service asks -------------------------------------------------------------


def _of_its_owner(vm: VM, ask: Ask) -> _Asked:
    return _Asked(team=vm.team, user=vm.owner, ask=ask)


def _start(vm: VM, _actor: User, _about: About) -> _Asked:
    held = quotas.held_by(vm, [])
    wanted = running_ask(vm.vcpus, vm.memory_mib)
    return _of_its_owner(vm, {what: n for what, n in wanted.items() if not held.get(what)})


def _size(vm: VM, _actor: User, about: About) -> _Asked:
    ask = hardware.size_ask(vm, vcpus=about.vcpus, memory_mib=about.memory_mib)
    return _of_its_owner(vm, ask)


def _disk_add(vm: VM, _actor: User, about: About) -> _Asked:
    return _of_its_owner(vm, {Resource.DISK_GIB: about.size_gib})


def _disk_grow(vm: VM, _actor: User, about: About) -> _Asked:
    more = about.size_gib - hardware.find_disk(vm, about.disk).size_gib
    return _of_its_owner(vm, {Resource.DISK_GIB: max(0, more)})


def _snapshot(vm: VM, _actor: User, _about: About) -> _Asked:
    return _of_its_owner(vm, {Resource.SNAPSHOTS: 1})


def _snapshot_revert(vm: VM, _actor: User, about: About) -> _Asked:
    snapshot = snapshots.find(vm, about.snapshot)
    return _of_its_owner(vm, snapshots.growth(vm, snapshot, start=about.start))


def _backup(vm: VM, _actor: User, _about: About) -> _Asked:
    return _of_its_owner(vm, backups.take_ask(vm.disks.all()))


def _backup_restore(vm: VM, _actor: User, about: About) -> _Asked:
    return _of_its_owner(vm, backups.restore_ask(backups.find(vm, about.backup)))


def _backup_new(vm: VM, actor: User, about: About) -> _Asked:
    backup = backups.find(vm, about.backup)
    disk_gib = sum(image.min_disk_gib for _target, image in backup.files)
    ask = create_ask(vm.vcpus, vm.memory_mib, disk_gib, about.start)
    return _Asked(team=vm.team, user=actor, ask=ask)


def _backup_attach(vm: VM, actor: User, about: About) -> _Asked:
    to = queries.one(actor, about.machine)
    policy.require(actor, Action.EDIT, to)
    image = backups.file_of(backups.find(vm, about.backup), about.disk)
    return _of_its_owner(to, {Resource.DISK_GIB: image.min_disk_gib})


def _template(vm: VM, actor: User, about: About) -> _Asked:
    into = templates.find(actor, about.into) if about.into else None
    team = into.team if into else vm.team
    return _Asked(team=team, user=actor, ask=templates.make_ask(vm, new=into is None))


def _clone(vm: VM, actor: User, about: About) -> _Asked:
    team = about.team or cloning.default_team(vm, actor)
    policy.require(actor, Action.TEAM_CREATE_VM, team)
    return _Asked(team=team, user=actor, ask=cloning.ask(vm, start=about.start))


def _port(vm: VM, _actor: User, _about: About) -> _Asked:
    return _of_its_owner(vm, {Resource.PORTS: 1})


def _bin_restore(vm: VM, _actor: User, _about: About) -> _Asked:
    return _of_its_owner(vm, recycle_bin.restore_ask(vm))


_OF_BACKUPS = {"backup-new", "backup-attach"}
ACTIONS: Mapping[str, Callable[[VM, User, About], _Asked]] = {
    "start": _start,
    "size": _size,
    "disk-add": _disk_add,
    "disk-grow": _disk_grow,
    "snapshot": _snapshot,
    "snapshot-revert": _snapshot_revert,
    "backup": _backup,
    "backup-restore": _backup_restore,
    "backup-new": _backup_new,
    "backup-attach": _backup_attach,
    "template": _template,
    "clone": _clone,
    "bin-restore": _bin_restore,
    "port": _port,
}
