"""Deleting a machine, the recycle bin, and what stops a machine by a rule."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms import binning, deletion, idle, leases, power, rule_stops
from vms.backups import steps as backup_steps

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

# A host may be away for days; its machines are deleted when it is back.
DELETE_DEADLINE = timedelta(days=14)

DELETE = JobKind(
    kind="vm.delete",
    label=_("Delete machine"),
    verb="deleting",
    steps=(
        StepSpec(key="stop", label=_("Switching off"), do=deletion.stop),
        StepSpec(
            key="keep",
            label=_("Keeping disks as a backup"),
            do=backup_steps.copy,
            undo=backup_steps.drop,
            slot="copy",
            weight=8,
            optional=deletion.keeps_disk,
        ),
        StepSpec(
            key="sum",
            label=_("Adding up the checksum"),
            do=backup_steps.add_up,
            weight=3,
            optional=deletion.keeps_disk,
        ),
        StepSpec(key="undefine", label=_("Removing the definition"), do=deletion.undefine),
        StepSpec(key="disks", label=_("Deleting the disks"), do=deletion.delete_volumes, weight=2),
    ),
    deadline=DELETE_DEADLINE,
    # Half deleted is worse than either: what has begun goes on until nothing is left.
    cancellable=False,
    on_success=deletion.succeeded,
    on_failure=deletion.failed,
)

BIN = JobKind(
    kind="vm.bin",
    label=_("Move to the recycle bin"),
    verb="binning",
    steps=(
        StepSpec(key="stop", label=_("Switching off"), do=binning.switch_off_machine),
        StepSpec(
            key="hold", label=_("Keeping it from starting"), do=binning.hold, undo=binning.let_go
        ),
    ),
    deadline=DELETE_DEADLINE,
    on_success=binning.put_in,
    on_failure=binning.not_put_in,
)

TAKE_BACK = JobKind(
    kind="vm.take_back",
    label=_("Restore from the recycle bin"),
    verb="taking_back",
    steps=(
        StepSpec(key="disks", label=_("Looking for its disks"), do=binning.look_whole),
        StepSpec(key="define", label=_("Bringing the definition back"), do=binning.bring_back),
    ),
    deadline=DELETE_DEADLINE,
    on_success=binning.taken_out,
    on_failure=binning.not_taken_out,
)


def _stop(kind: str, *, verb: str, label: _StrPromise) -> JobKind:
    return JobKind(
        kind=kind,
        label=label,
        verb=verb,
        steps=(
            StepSpec(key="ask", label=_("Pressing the power button"), do=rule_stops.ask),
            StepSpec(
                key="wait", label=_("Waiting for the guest to stop"), do=rule_stops.wait, weight=4
            ),
            StepSpec(
                key="save",
                label=_("Saving the memory of a suspended machine"),
                do=rule_stops.save,
                weight=4,
            ),
            StepSpec(key="off", label=_("Switching off"), do=rule_stops.switch_it_off),
        ),
        deadline=DELETE_DEADLINE,
        # Its people extend its time, or keep it: else it would run as long as they cancel.
        cancellable=False,
        on_success=power.succeeded,
        on_failure=rule_stops.not_stopped,
    )


END_LEASE = _stop(leases.STOP, verb="ending", label=_("Stop: its time is over"))
STOP_IDLE = _stop(idle.STOP, verb="idle_stop", label=_("Stop: nobody uses it"))

KINDS = (DELETE, BIN, TAKE_BACK, END_LEASE, STOP_IDLE)
