"""Whole copies of a machine's disk: backups, templates, and disks that stand on nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms import flattening, power, replacing
from vms.backups import services as backups
from vms.backups import steps as backup_steps
from vms.hardware import requests as hardware
from vms.hardware import steps as hardware_steps
from vms.jobs import deadlines
from vms.machine_templates import services as machine_templates
from vms.machine_templates import steps as template_steps

if TYPE_CHECKING:
    pass

MAKE_TEMPLATE = JobKind(
    kind=machine_templates.KIND,
    label=_("Make template"),
    verb="templating",
    steps=(
        StepSpec(
            key="copy",
            label=_("Copying the disk"),
            do=template_steps.copy,
            undo=template_steps.drop,
            slot="copy",
            weight=8,
        ),
    ),
    queue="bulk",
    deadline=deadlines.COPY,
    on_success=template_steps.made,
    on_failure=template_steps.not_made,
)

BACKUPS = (
    JobKind(
        kind=backups.TAKE,
        label=_("Back up"),
        verb="backing_up",
        steps=(
            StepSpec(
                key="copy",
                label=_("Copying the disk"),
                do=backup_steps.copy,
                undo=backup_steps.drop,
                slot="copy",
                weight=8,
            ),
            StepSpec(
                key="sum", label=_("Adding up the checksum"), do=backup_steps.add_up, weight=3
            ),
        ),
        queue="bulk",
        deadline=deadlines.COPY,
        on_success=backup_steps.taken,
        on_failure=backup_steps.not_taken,
    ),
    JobKind(
        kind=backups.RESTORE,
        label=_("Restore from backup"),
        verb="restoring",
        steps=(
            StepSpec(
                key="verify", label=_("Checking the checksum"), do=backup_steps.verify, weight=3
            ),
            StepSpec(
                key="copy",
                label=_("Copying the disk"),
                do=backup_steps.copy_back,
                undo=replacing.drop_new,
                slot="copy",
                weight=8,
            ),
            StepSpec(
                key="nvram",
                label=_("Copying what the firmware remembers"),
                do=backup_steps.put_nvram,
                undo=backup_steps.put_nvram_back,
                optional=backup_steps.brings_nvram,
            ),
            StepSpec(
                key="switch",
                label=_("Defining the machine"),
                do=replacing.switch,
                undo=replacing.switch_back,
            ),
            StepSpec(
                key="old",
                label=_("Deleting the disk that it had"),
                do=backup_steps.remove_old,
                observing=True,
            ),
        ),
        queue="bulk",
        deadline=deadlines.COPY,
        on_success=backup_steps.restored,
        on_failure=backup_steps.not_restored,
    ),
    JobKind(
        kind=hardware.DISK_FROM_BACKUP,
        label=_("Add disk from a backup"),
        verb="changing",
        steps=(
            StepSpec(
                key="verify",
                label=_("Checking the checksum"),
                do=backup_steps.verify_disk,
                weight=3,
            ),
            StepSpec(
                key="copy",
                label=_("Copying the disk"),
                do=backup_steps.copy_to_disk,
                undo=hardware_steps.drop_volume,
                slot="copy",
                weight=8,
            ),
            StepSpec(
                key="plug",
                label=_("Plugging it in"),
                do=hardware_steps.plug_disk,
                undo=hardware_steps.unplug_disk,
            ),
        ),
        queue="bulk",
        deadline=deadlines.COPY,
        on_success=hardware_steps.succeeded,
        on_failure=hardware_steps.disk_added_not,
    ),
)

FLATTEN = JobKind(
    kind=flattening.KIND,
    label=_("Make independent"),
    verb="flattening",
    steps=(
        StepSpec(
            key="pull",
            label=_("Copying what it stands on"),
            do=flattening.pull,
            undo=flattening.drop,
            slot="copy",
            weight=8,
        ),
        StepSpec(
            key="switch",
            label=_("Defining the machine"),
            do=flattening.settle,
            undo=flattening.unsettle,
        ),
        StepSpec(
            key="old",
            label=_("Deleting the disk that it had"),
            do=flattening.remove_old,
            observing=True,
        ),
    ),
    queue="bulk",
    deadline=deadlines.COPY,
    on_success=flattening.succeeded,
    on_failure=power.failed,
)

KINDS = (MAKE_TEMPLATE, *BACKUPS, FLATTEN)
