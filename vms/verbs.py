"""Which verbs make sense for a machine now, and why the others do not. Pure rules.

One table serves the page, the list's bulk bar, the API and the services: a button that is shown
as possible is accepted, as far as what was last observed is still true.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from django.utils import timezone

from hosts.models import Host
from vms.models import VM

if TYPE_CHECKING:
    from jobs.models import Job


class Verb(str, Enum):
    START = "start"
    START_PAUSED = "start_paused"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    RESUME = "resume"
    SAVE = "save"
    DISCARD_SAVED = "discard_saved"
    NMI = "nmi"
    RESET = "reset"
    FORCE_OFF = "force_off"
    DELETE = "delete"


VERBS: tuple[str, ...] = tuple(verb.value for verb in Verb)

_RUNS = "vm.why.runs"
_OFF = "vm.why.off"
_PAUSED = "vm.why.paused"
_NOT_PAUSED = "vm.why.not_paused"
_STARTS = (Verb.START, Verb.START_PAUSED)
# What needs a guest that is there.
_OF_GUESTS = (
    Verb.SHUTDOWN,
    Verb.REBOOT,
    Verb.SUSPEND,
    Verb.RESUME,
    Verb.SAVE,
    Verb.NMI,
    Verb.RESET,
)

# state -> verb -> why not; a verb that is not named is possible. What is kept of a machine that is
# off (DISCARD_SAVED) is asked apart.
_WHY_NOT: dict[str, dict[Verb, str]] = {
    VM.Observed.RUNNING: dict.fromkeys(_STARTS, _RUNS) | {Verb.RESUME: _NOT_PAUSED},
    VM.Observed.PAUSED: dict.fromkeys(
        (*_STARTS, Verb.SHUTDOWN, Verb.REBOOT, Verb.SUSPEND), _PAUSED
    ),
    VM.Observed.SHUTOFF: dict.fromkeys((*_OF_GUESTS, Verb.FORCE_OFF), _OFF),
    VM.Observed.CRASHED: dict.fromkeys(_OF_GUESTS, "vm.why.crashed"),
    VM.Observed.MISSING: dict.fromkeys(set(Verb) - {Verb.DELETE}, "vm.why.missing"),
    VM.Observed.UNKNOWN: dict.fromkeys(set(Verb) - {Verb.DELETE}, "vm.why.unknown"),
}
# While the guest has been asked to shut down, only what overrules that.
_WHILE_SHUTTING_DOWN = {Verb.SHUTDOWN, Verb.FORCE_OFF, Verb.DELETE}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the rules look at."""

    observed: str
    host_down: bool
    active_kind: str  # kind of the active job, "" without one
    active_observing: bool
    binned: bool = False
    saved: bool = False  # off, with its memory kept
    time_over: bool = False  # its end has passed

    @classmethod
    def of(cls, vm: VM, active: Job | None) -> Situation:
        return cls(
            observed=vm.observed,
            host_down=vm.host is not None and vm.host.reach == Host.Reach.DOWN,
            active_kind=active.kind if active else "",
            active_observing=active.observing if active else False,
            binned=vm.binned_at is not None,
            saved=vm.saved,
            time_over=vm.ends_at is not None and vm.ends_at <= timezone.now(),
        )


def why_not(situation: Situation, verb: Verb) -> str | None:
    """The code of the reason why ``verb`` makes no sense now, or None when it does."""
    code = why_busy(situation, overrules=verb in _WHILE_SHUTTING_DOWN)
    goes_anyway = verb is Verb.DELETE and code in ("vm.why.host_down", "vm.why.binned")
    if code and not goes_anyway:
        return code
    why = _WHY_NOT[situation.observed].get(verb)
    if verb in _STARTS and why is None and situation.time_over:
        return "vm.why.time_over"
    if verb is Verb.DISCARD_SAVED and why is None and not situation.saved:
        return "vm.why.not_saved"
    return why


def why_busy(situation: Situation, *, overrules: bool = False) -> str | None:
    """Why nothing can be begun with the machine now, whatever it is. ``overrules``: it makes
    sense while the guest has been asked to shut down."""
    if situation.active_kind and not situation.active_observing:
        return "vm.why.deleting" if situation.active_kind == "vm.delete" else "vm.why.busy"
    if situation.binned:
        return "vm.why.binned"
    if situation.active_kind == "vm.shutdown" and not overrules:
        return "vm.why.shutting_down"
    return "vm.why.host_down" if situation.host_down else None
