"""The kinds of jobs that work on machines. ``VmsConfig.ready`` calls ``register``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy as _

from jobs import registry
from jobs.registry import JobKind, StepSpec
from vms import binning, deletion, discs, power
from vms.backups import services as backups
from vms.backups import steps as backup_steps
from vms.cloning import lending
from vms.cloning import requests as cloning
from vms.cloning import steps as clone_steps
from vms.hardware import requests as hardware
from vms.hardware import steps as hardware_steps
from vms.machine_templates import services as machine_templates
from vms.machine_templates import steps as template_steps
from vms.models import VM
from vms.provisioning import observing, outcome, steps
from vms.snapshots import requests as snapshots
from vms.snapshots import steps as snapshot_steps

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    from jobs.context import JobContext

# A slow link may need long for a large image; a full copy of a large disk as well.
CREATE_DEADLINE = timedelta(hours=4)
# Observing ends by its own patience; this is only the last resort.
POWER_DEADLINE = timedelta(minutes=30)
# The memory of a large guest is written at the speed of its host's disk.
SNAPSHOT_DEADLINE = timedelta(hours=2)
# A host may be away for days; its machines are deleted when it is back.
DELETE_DEADLINE = timedelta(days=14)


# What a creation needs follows from its params alone, so that a page can show the steps to come.
def _is_linked(ctx: JobContext) -> bool:
    return bool(ctx.params["copy"] == VM.Copy.LINKED)


def _is_full(ctx: JobContext) -> bool:
    return not _is_linked(ctx)


def _has_cloud_init(ctx: JobContext) -> bool:
    return bool(ctx.params["cloud_init"])


def _starts(ctx: JobContext) -> bool:
    return bool(ctx.params["start"])


def _starts_with_seed(ctx: JobContext) -> bool:
    return _starts(ctx) and _has_cloud_init(ctx)


CREATE = JobKind(
    kind="vm.create",
    label=_("Create machine"),
    verb="creating",
    steps=(
        StepSpec(key="place", label=_("Choosing a host"), do=steps.place),
        StepSpec(
            key="image", label=_("Copying the image to the host"), do=steps.bring_image, weight=8
        ),
        StepSpec(
            key="disk",
            label=_("Making the disk"),
            do=steps.make_disk,
            undo=steps.delete_disk,
            optional=_is_linked,
        ),
        StepSpec(
            key="copy",
            label=_("Copying the disk"),
            do=steps.copy_disk,
            undo=steps.delete_disk,
            slot="copy",
            weight=8,
            optional=_is_full,
        ),
        StepSpec(
            key="seed",
            label=_("Writing the seed for the first boot"),
            do=steps.write_seed,
            undo=steps.delete_seed,
            optional=_has_cloud_init,
        ),
        StepSpec(
            key="define",
            label=_("Defining the machine"),
            do=steps.define,
            undo=steps.undefine,
        ),
        StepSpec(
            key="boot",
            label=_("Starting"),
            do=steps.boot,
            undo=steps.stop,
            weight=2,
            optional=_starts,
        ),
        StepSpec(
            key="address",
            label=_("Waiting for an address"),
            do=observing.wait_for_address,
            observing=True,
            weight=6,
            optional=_starts,
        ),
        StepSpec(
            key="firstboot",
            label=_("Waiting for cloud-init"),
            do=observing.wait_for_first_boot,
            observing=True,
            weight=8,
            optional=_starts_with_seed,
        ),
        StepSpec(
            key="finish",
            label=_("Removing the seed"),
            do=observing.finish,
            observing=True,
            optional=_starts_with_seed,
        ),
    ),
    deadline=CREATE_DEADLINE,
    on_success=outcome.succeeded,
    on_failure=outcome.failed,
    retry=outcome.again,
)


CLONE = JobKind(
    kind=cloning.KIND,
    label=_("Clone machine"),
    verb="cloning",
    steps=(
        StepSpec(key="place", label=_("Looking for room on the host"), do=clone_steps.place),
        StepSpec(
            key="rewind",
            label=_("Going to the snapshot"),
            do=clone_steps.rewind,
            undo=clone_steps.wind_back,
            optional=clone_steps.of_snapshot,
        ),
        StepSpec(
            key="copy",
            label=_("Copying the disks"),
            do=clone_steps.copy_disks,
            undo=clone_steps.drop_copies,
            slot="copy",
            weight=12,
        ),
        StepSpec(
            key="back",
            label=_("Going back from the snapshot"),
            do=clone_steps.wind_back,
            optional=clone_steps.of_snapshot,
        ),
        StepSpec(key="give_back", label=_("Giving the source back"), do=clone_steps.give_back),
        *(step for step in CREATE.steps if step.key not in ("place", "image", "disk", "copy")),
    ),
    deadline=CREATE_DEADLINE,
    on_success=outcome.succeeded,
    on_failure=outcome.failed,
)

LEND = JobKind(
    kind=cloning.LENDING,
    label=_("Be cloned"),
    verb="lent",
    steps=(StepSpec(key="lend", label=_("Being read"), do=lending.lend),),
    deadline=CREATE_DEADLINE,
    cancellable=False,  # the clone's own job is cancelled
    on_success=lending.ended,
    on_failure=lending.ended,
)


def _watch_first_boot() -> tuple[StepSpec, ...]:
    """After a verb that makes the guest boot, while a seed is still there."""
    return (
        StepSpec(
            key="address",
            label=_("Waiting for an address"),
            do=observing.wait_for_address,
            observing=True,
            weight=2,
            optional=observing.has_seed,
        ),
        StepSpec(
            key="firstboot",
            label=_("Waiting for cloud-init"),
            do=observing.wait_for_first_boot,
            observing=True,
            weight=2,
            optional=observing.has_seed,
        ),
        StepSpec(
            key="finish",
            label=_("Removing the seed"),
            do=observing.finish,
            observing=True,
            optional=observing.has_seed,
        ),
    )


def _power(kind: str, *, verb: str, label: _StrPromise, steps: tuple[StepSpec, ...]) -> JobKind:
    return JobKind(
        kind=kind,
        label=label,
        verb=verb,
        steps=steps,
        deadline=POWER_DEADLINE,
        on_success=power.succeeded,
        on_failure=power.failed,
    )


POWER: tuple[JobKind, ...] = (
    _power(
        "vm.start",
        verb="starting",
        label=_("Start"),
        steps=(
            StepSpec(key="start", label=_("Starting"), do=power.start),
            *_watch_first_boot(),
        ),
    ),
    _power(
        "vm.shutdown",
        verb="shutting_down",
        label=_("Shut down"),
        steps=(
            StepSpec(key="ask", label=_("Pressing the power button"), do=power.ask_to_shut_down),
            StepSpec(
                key="off",
                label=_("Waiting for the guest to stop"),
                do=power.wait_until_off,
                observing=True,
                weight=4,
            ),
        ),
    ),
    _power(
        "vm.force_off",
        verb="forcing_off",
        label=_("Force off"),
        steps=(StepSpec(key="off", label=_("Switching off"), do=power.force_off),),
    ),
    _power(
        "vm.reboot",
        verb="rebooting",
        label=_("Reboot"),
        steps=(
            StepSpec(key="ask", label=_("Asking the guest to restart"), do=power.reboot),
            *_watch_first_boot(),
        ),
    ),
    _power(
        "vm.reset",
        verb="resetting",
        label=_("Reset"),
        steps=(
            StepSpec(key="reset", label=_("Pressing the reset button"), do=power.reset),
            *_watch_first_boot(),
        ),
    ),
    _power(
        "vm.suspend",
        verb="suspending",
        label=_("Suspend"),
        steps=(StepSpec(key="suspend", label=_("Suspending"), do=power.suspend),),
    ),
    _power(
        "vm.resume",
        verb="resuming",
        label=_("Resume"),
        steps=(
            StepSpec(key="resume", label=_("Resuming"), do=power.resume),
            *_watch_first_boot(),
        ),
    ),
)

POWER += (
    _power(
        "vm.start_paused",
        verb="starting",
        label=_("Start suspended"),
        steps=(StepSpec(key="start", label=_("Starting"), do=power.start_paused),),
    ),
    _power(
        "vm.save",
        verb="saving",
        label=_("Save"),
        steps=(StepSpec(key="save", label=_("Writing its memory to disk"), do=power.save),),
    ),
    _power(
        "vm.discard_saved",
        verb="changing",
        label=_("Discard saved memory"),
        steps=(StepSpec(key="discard", label=_("Deleting what was kept"), do=power.discard_saved),),
    ),
    _power(
        "vm.nmi",
        verb="changing",
        label=_("Send NMI"),
        steps=(StepSpec(key="nmi", label=_("Interrupting the processor"), do=power.inject_nmi),),
    ),
    _power(
        "vm.send_keys",
        verb="changing",
        label=_("Send keys"),
        steps=(StepSpec(key="keys", label=_("Pressing the keys"), do=power.send_keys),),
    ),
)

DELETE = JobKind(
    kind="vm.delete",
    label=_("Delete machine"),
    verb="deleting",
    steps=(
        StepSpec(key="stop", label=_("Switching off"), do=deletion.stop),
        StepSpec(key="undefine", label=_("Removing the definition"), do=deletion.undefine),
        StepSpec(key="disks", label=_("Deleting the disks"), do=deletion.delete_volumes, weight=2),
    ),
    deadline=DELETE_DEADLINE,
    # Half deleted is worse than either: what has begun goes on until nothing is left.
    cancellable=False,
    on_success=deletion.succeeded,
    on_failure=deletion.failed,
)


SNAPSHOTS = (
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
        deadline=SNAPSHOT_DEADLINE,
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
        deadline=SNAPSHOT_DEADLINE,
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
        deadline=SNAPSHOT_DEADLINE,
        cancellable=False,
        on_success=snapshot_steps.deleted,
        on_failure=snapshot_steps.not_reverted,
    ),
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
    deadline=CREATE_DEADLINE,
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
        deadline=CREATE_DEADLINE,
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
                undo=backup_steps.drop_new,
                slot="copy",
                weight=8,
            ),
            StepSpec(
                key="switch",
                label=_("Defining the machine"),
                do=backup_steps.switch,
                undo=backup_steps.switch_back,
            ),
            StepSpec(
                key="old",
                label=_("Deleting the disk that it had"),
                do=backup_steps.remove_old,
                observing=True,
            ),
        ),
        queue="bulk",
        deadline=CREATE_DEADLINE,
        on_success=backup_steps.restored,
        on_failure=power.failed,
    ),
)

EJECT = JobKind(
    kind=discs.KIND,
    label=_("Eject the disc"),
    verb="ejecting",
    steps=(StepSpec(key="eject", label=_("Emptying the drive"), do=discs.take_out),),
    deadline=POWER_DEADLINE,
    on_success=discs.taken_out,
    on_failure=power.failed,
)


def _settings(
    kind: str, *, label: _StrPromise, steps: tuple[StepSpec, ...], **ends: Any
) -> JobKind:
    outcomes = {"on_success": hardware_steps.succeeded, "on_failure": hardware_steps.failed}
    return JobKind(
        kind=kind,
        label=label,
        verb="changing",
        steps=steps,
        deadline=POWER_DEADLINE,
        **(outcomes | ends),
    )


HARDWARE = (
    _settings(
        hardware.RESIZE,
        label=_("Change size"),
        steps=(StepSpec(key="resize", label=_("Changing the size"), do=hardware_steps.resize),),
    ),
    _settings(
        hardware.BOOT,
        label=_("Change boot order"),
        steps=(
            StepSpec(
                key="order", label=_("Changing the definition"), do=hardware_steps.set_boot_order
            ),
        ),
    ),
    _settings(
        hardware.AUTOSTART,
        label=_("Change autostart"),
        steps=(
            StepSpec(
                key="autostart",
                label=_("Changing the definition"),
                do=hardware_steps.set_autostart,
            ),
        ),
    ),
    _settings(
        hardware.DISK_ADD,
        label=_("Add disk"),
        steps=(
            StepSpec(
                key="disk",
                label=_("Making the disk"),
                do=hardware_steps.make_volume,
                undo=hardware_steps.drop_volume,
            ),
            StepSpec(
                key="plug",
                label=_("Plugging it in"),
                do=hardware_steps.plug_disk,
                undo=hardware_steps.unplug_disk,
            ),
        ),
        on_failure=hardware_steps.disk_added_not,
    ),
    _settings(
        hardware.DISK_GROW,
        label=_("Grow disk"),
        steps=(StepSpec(key="grow", label=_("Growing the disk"), do=hardware_steps.grow_disk),),
        on_success=hardware_steps.disk_grown,
    ),
    _settings(
        hardware.DISK_REMOVE,
        label=_("Remove disk"),
        steps=(
            StepSpec(key="unplug", label=_("Unplugging it"), do=hardware_steps.unplug_disk),
            StepSpec(key="disk", label=_("Deleting the disk"), do=hardware_steps.drop_volume),
        ),
        cancellable=False,
        on_success=hardware_steps.disk_removed,
    ),
    _settings(
        hardware.NIC_ADD,
        label=_("Add network card"),
        steps=(
            StepSpec(
                key="plug",
                label=_("Plugging it in"),
                do=hardware_steps.plug_nic,
                undo=hardware_steps.unplug_nic,
            ),
        ),
        on_failure=hardware_steps.nic_added_not,
    ),
    _settings(
        hardware.NIC_CHANGE,
        label=_("Change network card"),
        steps=(StepSpec(key="change", label=_("Changing the card"), do=hardware_steps.change_nic),),
    ),
    _settings(
        hardware.NIC_REMOVE,
        label=_("Remove network card"),
        steps=(StepSpec(key="unplug", label=_("Unplugging it"), do=hardware_steps.unplug_nic),),
        cancellable=False,
        on_success=hardware_steps.nic_removed,
    ),
    _settings(
        hardware.RESTART,
        label=_("Shut down and restart"),
        steps=(
            StepSpec(key="ask", label=_("Pressing the power button"), do=power.ask_to_shut_down),
            StepSpec(
                key="off",
                label=_("Waiting for the guest to stop"),
                do=hardware_steps.wait_until_off,
                weight=4,
            ),
            StepSpec(key="start", label=_("Starting"), do=power.start),
        ),
    ),
)


def register() -> None:
    for kind in (
        CREATE,
        CLONE,
        LEND,
        *POWER,
        DELETE,
        *SNAPSHOTS,
        BIN,
        TAKE_BACK,
        EJECT,
        MAKE_TEMPLATE,
        *HARDWARE,
        *BACKUPS,
    ):
        registry.register(kind)
