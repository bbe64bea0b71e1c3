"""Power verbs, and what else is done to a machine as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from jobs.context import JobContext
from jobs.registry import JobKind, StepSpec
from vms import discs, power
from vms.jobs import deadlines
from vms.jobs.first_boot import after_a_verb

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise


def _power(kind: str, *, verb: str, label: _StrPromise, steps: tuple[StepSpec, ...]) -> JobKind:
    return JobKind(
        kind=kind,
        label=label,
        verb=verb,
        steps=steps,
        deadline=deadlines.POWER,
        on_success=power.succeeded,
        on_failure=power.failed,
    )


def _call(
    kind: str,
    *,
    verb: str,
    label: _StrPromise,
    key: str,
    step: _StrPromise,
    do: Callable[[JobContext], None],
    boots: bool = False,
) -> JobKind:
    """One call to the host; where the guest ``boots`` by it, its first boot is followed."""
    first = StepSpec(key=key, label=step, do=do)
    steps = (first, *after_a_verb()) if boots else (first,)
    return _power(kind, verb=verb, label=label, steps=steps)


KINDS: tuple[JobKind, ...] = (
    _call(
        "vm.start",
        verb="starting",
        label=_("Start"),
        key="start",
        step=_("Starting"),
        do=power.start,
        boots=True,
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
    _call(
        "vm.force_off",
        verb="forcing_off",
        label=_("Force off"),
        key="off",
        step=_("Switching off"),
        do=power.force_off,
    ),
    _call(
        "vm.reboot",
        verb="rebooting",
        label=_("Reboot"),
        key="ask",
        step=_("Asking the guest to restart"),
        do=power.reboot,
        boots=True,
    ),
    _call(
        "vm.reset",
        verb="resetting",
        label=_("Reset"),
        key="reset",
        step=_("Pressing the reset button"),
        do=power.reset,
        boots=True,
    ),
    _call(
        "vm.suspend",
        verb="suspending",
        label=_("Suspend"),
        key="suspend",
        step=_("Suspending"),
        do=power.suspend,
    ),
    _call(
        "vm.resume",
        verb="resuming",
        label=_("Resume"),
        key="resume",
        step=_("Resuming"),
        do=power.resume,
        boots=True,
    ),
    _call(
        "vm.start_paused",
        verb="starting",
        label=_("Start suspended"),
        key="start",
        step=_("Starting"),
        do=power.start_paused,
    ),
    _call(
        "vm.save",
        verb="saving",
        label=_("Save"),
        key="save",
        step=_("Writing its memory to disk"),
        do=power.save,
    ),
    _call(
        "vm.discard_saved",
        verb="changing",
        label=_("Discard saved memory"),
        key="discard",
        step=_("Deleting what was kept"),
        do=power.discard_saved,
    ),
    _call(
        "vm.nmi",
        verb="changing",
        label=_("Send NMI"),
        key="nmi",
        step=_("Interrupting the processor"),
        do=power.inject_nmi,
    ),
    _call(
        "vm.send_keys",
        verb="changing",
        label=_("Send keys"),
        key="keys",
        step=_("Pressing the keys"),
        do=power.send_keys,
    ),
    JobKind(
        kind=discs.INSERT,
        label=_("Insert a disc"),
        verb="changing",
        steps=(
            StepSpec(
                key="image", label=_("Copying the image to the host"), do=discs.bring, weight=8
            ),
            StepSpec(
                key="insert",
                label=_("Putting it into the drive"),
                do=discs.put_in,
                undo=discs.take_back,
            ),
        ),
        deadline=deadlines.COPY,
        on_success=discs.was_put_in,
        on_failure=power.failed,
    ),
    JobKind(
        kind=discs.KIND,
        label=_("Eject the disc"),
        verb="ejecting",
        steps=(
            StepSpec(key="eject", label=_("Emptying the drive"), do=discs.take_out),
            StepSpec(
                key="start",
                label=_("Starting"),
                do=discs.start_installed,
                optional=discs.starts_again,
            ),
        ),
        deadline=deadlines.POWER,
        on_success=discs.taken_out,
        on_failure=power.failed,
    ),
)
