"""Snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms.jobs import deadlines
from vms.snapshots import requests as snapshots
from vms.snapshots import steps as snapshot_steps

if TYPE_CHECKING:
    pass

KINDS = (
    JobKind(
        kind=snapshots.TAKE,
        label=_("Take snapshot"),
        verb="taking_snapshot",
        steps=(
            StepSpec(
                key="snapshot",
                label=_("Taking the snapshot"),
                check=snapshot_steps.is_taken,
                do=snapshot_steps.take,
                undo=snapshot_steps.drop_taken,
                weight=4,
            ),
            StepSpec(key="note", label=_("Looking at the result"), do=snapshot_steps.note_taken),
        ),
        deadline=deadlines.SNAPSHOT,
        on_success=snapshot_steps.taken,
        on_failure=snapshot_steps.not_taken,
    ),
    JobKind(
        kind=snapshots.REVERT,
        label=_("Go back to snapshot"),
        verb="reverting",
        steps=(
            StepSpec(key="revert", label=_("Going back"), do=snapshot_steps.revert, weight=4),
            StepSpec(key="note", label=_("Looking at the result"), do=snapshot_steps.note_reverted),
            StepSpec(
                key="start",
                label=_("Starting"),
                do=snapshot_steps.start,
                optional=snapshot_steps.wants_start,
            ),
        ),
        deadline=deadlines.SNAPSHOT,
        # What was there before is lost with its first moment.
        cancellable=False,
        on_success=snapshot_steps.reverted,
        on_failure=snapshot_steps.not_reverted,
    ),
    JobKind(
        kind=snapshots.DELETE,
        label=_("Delete snapshot"),
        verb="deleting_snapshot",
        steps=(
            StepSpec(key="delete", label=_("Deleting the snapshot"), do=snapshot_steps.delete),
            StepSpec(key="note", label=_("Looking at the result"), do=snapshot_steps.note_deleted),
        ),
        deadline=deadlines.SNAPSHOT,
        cancellable=False,
        on_success=snapshot_steps.deleted,
        on_failure=snapshot_steps.not_reverted,
    ),
)
