"""What a job consists of. Apps register their kinds in ``AppConfig.ready()``.

A job is a list of small steps, each with ``check / do / undo``, each harmless when repeated: a
worker may die after ``do`` had its effect and before that was recorded, and the next claim runs
the step again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    from accounts.policy import Action
    from jobs.context import JobContext
    from jobs.models import HostRow, Job


class Park(Exception):  # noqa: N818 - not an error: the way a step says "later"
    """Raised by ``do``: give the worker back, run this step again in ``seconds`` or when woken
    (``jobs.services.wake``). The job stays ``running``; its lease is the time to resume at.

    ``stops_clock``: the time until then does not count against the deadline (waiting for another
    job, or for a place to work, is nobody's slowness)."""

    def __init__(self, seconds: float, *, waiting_for: str = "", stops_clock: bool = False) -> None:
        super().__init__(waiting_for)
        self.seconds = seconds
        self.waiting_for = waiting_for
        self.stops_clock = stops_clock


class Transient(Exception):  # noqa: N818 - a request to the engine, like Park
    """Raised by ``do`` (or a ``VirtError`` with ``transient``): try again, a bounded number of
    times, with growing pauses; the worker is given back in between."""


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    key: str  # "disk"; unique in its kind; failpoints and the page know it by this
    label: _StrPromise | str  # what a person reads: "Copying disk"
    do: Callable[[JobContext], None]
    check: Callable[[JobContext], bool] | None = None  # True: the effect is there already
    undo: Callable[[JobContext], None] | None = None  # idempotent; runs in reverse order
    weight: int = 1  # its share of the whole job's bar
    slot: str = ""  # kind of heavy work on the job's host: "copy"
    slot_also: Callable[[JobContext], Iterable[HostRow]] | None = None  # and on these hosts
    # From the first observing step on, the thing exists and works: cancelling or being
    # superseded ends the job as succeeded, nothing is undone, and a deadline is a warning.
    observing: bool = False
    optional: Callable[[JobContext], bool] | None = None  # False: skip this step


@dataclass(frozen=True, kw_only=True)
class JobKind:
    kind: str  # "vm.create"
    label: _StrPromise | str  # "Create machine"
    verb: str  # the VM's task word while it is active: "creating"
    steps: tuple[StepSpec, ...]
    queue: str = "quick"  # quick | bulk
    deadline: timedelta = field(default=timedelta(minutes=10))
    cancellable: bool = True
    # Each runs in the transaction that makes the job final (short, database only). Seen from
    # ``on_failure``, ``job.warning_code == "job.cleanup_incomplete"`` says that an undo was given
    # up: something may be left on the host.
    on_success: Callable[[Job], None] | None = None
    on_failure: Callable[[Job], None] | None = None  # also for cancelled
    # Makes the input of "try again": returns the new job. None: cannot be retried.
    retry: Callable[[Job], Job] | None = None
    # What a person who asks for it must still be allowed to do with its machine when the job is
    # written, after the locks. None: it is no machine's, or makes one.
    needs: Action | None = None
    max_retries: int = 5  # of one step, after transient errors and lost workers

    def step(self, key: str) -> StepSpec | None:
        return next((step for step in self.steps if step.key == key), None)


_kinds: dict[str, JobKind] = {}


def register(kind: JobKind) -> JobKind:
    keys = [step.key for step in kind.steps]
    if len(keys) != len(set(keys)):
        raise ValueError(f"{kind.kind}: step keys repeat")
    _kinds[kind.kind] = kind
    return kind


def get(kind: str) -> JobKind:
    """KeyError: no app of this version registers it."""
    return _kinds[kind]


def find(kind: str) -> JobKind | None:
    return _kinds.get(kind)


def label_of(kind: str) -> str:
    """What a person reads; nothing for what is no kind of job."""
    found = find(kind)
    return str(found.label) if found else ""


def all_kinds() -> dict[str, JobKind]:
    return dict(_kinds)
