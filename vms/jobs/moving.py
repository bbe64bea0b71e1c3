"""Moving a machine to another host."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms.jobs import deadlines
from vms.jobs.removal import DELETE_DEADLINE
from vms.moving import requests, steps

MIGRATE = JobKind(
    kind=requests.KIND,
    label=_("Move to another host"),
    verb="moving",
    steps=(
        StepSpec(
            key="image",
            label=_("Copying the image to the host"),
            do=steps.bring_images,
            weight=4,
            optional=steps.has_images,
        ),
        StepSpec(
            key="copy",
            label=_("Copying the disks"),
            do=steps.copy,
            undo=steps.drop_copies,
            slot="copy",
            slot_also=steps.target_of,
            weight=12,
            optional=steps.is_off,
        ),
        StepSpec(
            key="switch",
            label=_("Defining the machine"),
            do=steps.switch,
            undo=steps.drop_definition,
            optional=steps.is_off,
        ),
        # The turn of each way is its last step: nothing is asked after it, so no cancel comes late.
        StepSpec(
            key="move",
            label=_("Moving it while it runs"),
            do=steps.move,
            undo=steps.stay,
            slot="copy",
            slot_also=steps.target_of,
            weight=12,
            optional=steps.runs,
        ),
    ),
    queue="bulk",
    deadline=deadlines.COPY,
    on_success=steps.succeeded,
    on_failure=steps.failed,
)

LEAVE = JobKind(
    kind=requests.LEAVE,
    label=_("Clear up after a move"),
    verb="sweeping",
    steps=(
        StepSpec(key="files", label=_("Deleting what it has left there"), do=steps.delete_left),
    ),
    deadline=DELETE_DEADLINE,
    cancellable=False,  # what is left would be nobody's
)

KINDS = (MIGRATE, LEAVE)
