"""Settings and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms import power
from vms.hardware import requests as hardware
from vms.hardware import steps as hardware_steps
from vms.jobs import deadlines

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise


def _settings(
    kind: str, *, label: _StrPromise, steps: tuple[StepSpec, ...], **ends: Any
) -> JobKind:
    outcomes = {"on_success": hardware_steps.succeeded, "on_failure": hardware_steps.failed}
    return JobKind(
        kind=kind,
        label=label,
        verb="changing",
        steps=steps,
        deadline=deadlines.POWER,
        **(outcomes | ends),
    )


KINDS = (
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
