"""The snapshots of a machine as a tree, in the reader's language. Database only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from accounts import messages, policy
from accounts.policy import Action
from vms.lifecycle import active_job
from vms.models import VM, Snapshot
from vms.snapshots import rules
from vms.state import ON

if TYPE_CHECKING:
    from accounts.models import User

DEEPEST = 8  # what is deeper is drawn at this depth


@dataclass(frozen=True, kw_only=True)
class SnapshotView:
    row: Snapshot
    depth: int  # 0: a root
    creating: bool
    missing: bool
    why_not_revert: str  # "" when it can be gone back to now
    why_not_delete: str


@dataclass(frozen=True, kw_only=True)
class SnapshotsView:
    tree: list[SnapshotView]  # parents before their children
    why_not_take: str
    runs: bool  # it has memory that can be kept


def of(vm: VM, user: User) -> SnapshotsView:
    able = policy.can(user, Action.EDIT, vm)
    active = active_job(vm)

    def why(code: str | None) -> str:
        if not able:
            code = "vm.why.not_allowed"
        host = vm.host.name if vm.host else ""
        return messages.text(code, {"host": host, "name": vm.name}) if code else ""

    return SnapshotsView(
        tree=[
            SnapshotView(
                row=row,
                depth=min(depth, DEEPEST),
                creating=row.state == Snapshot.State.CREATING,
                missing=row.state == Snapshot.State.MISSING,
                why_not_revert=why(rules.why_not_back_to(vm, row, active)),
                why_not_delete=why(rules.why_not(vm, active)),
            )
            for row, depth in _in_order(list(vm.snapshots.select_related("created_by", "parent")))
        ],
        why_not_take=why(rules.why_not_take(vm, active)),
        runs=vm.observed in ON,
    )


def _in_order(rows: list[Snapshot]) -> list[tuple[Snapshot, int]]:
    children: dict[int | None, list[Snapshot]] = {}
    known = {row.pk for row in rows}
    for row in rows:
        parent = row.parent_id if row.parent_id in known else None
        children.setdefault(parent, []).append(row)
    ordered: list[tuple[Snapshot, int]] = []
    waiting = [(row, 0) for row in reversed(children.get(None, []))]
    while waiting:
        row, depth = waiting.pop()
        ordered.append((row, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(row.pk, []))]
    return ordered


def what_is_lost(vm: VM, snapshot: Snapshot) -> list[str]:
    """What going back to it takes away, as sentences."""
    moment = date_format(localtime(snapshot.created_at), "DATETIME_FORMAT")
    lost = [
        _("Everything written to its disks since %(time)s is lost. Other snapshots stay.")
        % {"time": moment}
    ]
    if vm.observed in ON:
        lost.append(_("It runs: what its programs have in memory now is lost too."))
    if snapshot.memory:
        lost.append(_("It then runs on from the memory that was kept; its clock is behind."))
    kept = snapshot.hardware
    if kept and (kept["vcpus"], kept["memory_mib"]) != (vm.vcpus, vm.memory_mib):
        lost.append(
            _("Its size goes back too, to %(vcpus)s vCPU and %(memory)s MiB.")
            % {"vcpus": kept["vcpus"], "memory": kept["memory_mib"]}
        )
    return lost
