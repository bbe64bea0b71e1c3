"""What a person reads of a machine: one wording for pages, fragments and the API.

Reads only what ``vms.queries.with_related`` loaded; no SQL for each machine, no hypervisor.
Texts are made in the active language, so a view is made for one response and never kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import messages, policy
from accounts.policy import Action
from jobs import presentation as jobs_presentation
from jobs import registry
from jobs.models import Job, Step
from vms import leases
from vms.lease_rules import Rulebook
from vms.lifecycle import active_job, allowed_verbs
from vms.models import VM
from vms.provisioning import installer
from vms.state import CREATIONS
from vms.verbs import Verb

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.context import JobContext
    from jobs.registry import JobKind, StepSpec


@dataclass(frozen=True, kw_only=True)
class StateView:
    key: str  # the observed state, or "working"
    word: str
    icon: str  # lucide
    css: str  # state-running | working | paused | stopped | failed | unknown
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskView:
    job_id: UUID
    kind: str
    verb: str  # the registry's word: "creating"
    word: str  # for people: "Creating"
    step: str
    step_label: str
    progress: float | None  # of the whole job, 0 to 1; None: not begun
    step_progress: float | None
    waiting: str  # what it waits for, as a sentence
    observing: bool
    cancellable: bool
    started_at: datetime | None
    guest_ignores: bool  # asked to shut down a minute ago, and still there

    @property
    def percent(self) -> int | None:
        return None if self.progress is None else round(self.progress * 100)


@dataclass(frozen=True, kw_only=True)
class StepView:
    key: str
    label: str
    state: str  # pending | running | done | failed | undone
    progress: float | None
    note: str
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def percent(self) -> int | None:
        return None if self.progress is None else round(self.progress * 100)


@dataclass(frozen=True, kw_only=True)
class VerbView:
    verb: str
    label: str
    icon: str
    allowed: bool
    why: str  # when it is not allowed
    danger: bool
    confirm: str  # what will happen and what is lost; "" = no dialog
    needs_name: bool  # the dialog asks for the machine's name


@dataclass(frozen=True, kw_only=True)
class LeaseView:
    """Of a machine that has an end."""

    ends_at: datetime
    over: bool
    soon: bool  # a week or less, or over
    extends_to: datetime | None  # with one click; None: only by a request
    latest: datetime | None  # to where it can be extended; None: for ever


@dataclass(frozen=True, kw_only=True)
class MachineView:
    vm: VM
    uuid: UUID
    name: str
    state: StateView
    task: TaskView | None
    addresses: list[str]
    connect: str  # "ssh debian@192.168.122.14", or ""
    size: str
    os: str
    disk_gib: int
    verbs: list[VerbView]
    fault: str
    host_down: str  # "Host a is unreachable since ...", or ""
    can_edit: bool
    shared: bool  # seen because it was shared, not by its owner or team
    can_console: bool
    can_control: bool
    why_no_console: str
    lease: LeaseView | None  # None: without end

    def verb(self, name: str) -> VerbView:
        return next(view for view in self.verbs if view.verb == name)


def machine(
    vm: VM, user: User, *, door: policy.Door | None = None, rules: Rulebook | None = None
) -> MachineView:
    """All that a page says of one machine to ``user``."""
    door = door or policy.door(user)
    active = active_job(vm)
    addresses = known_addresses(vm)
    sees = door.can(Action.CONSOLE_VIEW, vm)
    allowed = allowed_verbs(vm, user, door=door)
    return MachineView(
        vm=vm,
        uuid=vm.uuid,
        name=vm.name,
        state=state(vm, active),
        task=task(active) if active else None,
        addresses=addresses,
        connect=connect_line(vm, addresses),
        size=size_text(vm.vcpus, vm.memory_mib),
        os=vm.image.name if vm.image else "",
        disk_gib=sum(disk.size_gib for disk in vm.disks.all()),
        verbs=[_verb(vm, verb, allowed[verb.value]) for verb in Verb],
        fault=fault_text(vm),
        host_down=_host_down(vm),
        can_edit=door.can(Action.EDIT, vm),
        shared=door.is_shared(vm),
        can_console=sees,
        can_control=door.can(Action.CONSOLE_CONTROL, vm),
        # Being made, stopped, out of reach: the console's page itself says so, and goes on.
        why_no_console="" if sees else _("Your role in the team has no console."),
        lease=lease(vm, rules),
    )


def machines(vms: Iterable[VM], user: User) -> list[MachineView]:
    door, rules = policy.door(user), Rulebook.read()
    return [machine(vm, user, door=door, rules=rules) for vm in vms]


def lease(vm: VM, rules: Rulebook | None = None) -> LeaseView | None:
    if vm.ends_at is None:
        return None
    terms = (rules or Rulebook.read()).terms_of(vm)
    return LeaseView(
        ends_at=vm.ends_at,
        over=leases.is_over(vm),
        soon=vm.ends_at - timezone.now() <= leases.SOON,
        extends_to=leases.next_end(vm, terms),
        latest=terms.latest(vm.created_at),
    )


# --- state ---------------------------------------------------------------------------------------

_ICONS = {
    VM.Observed.RUNNING: ("circle-play", "state-running"),
    VM.Observed.PAUSED: ("circle-pause", "state-paused"),
    VM.Observed.SHUTOFF: ("circle-stop", "state-stopped"),
    VM.Observed.CRASHED: ("circle-alert", "state-failed"),
    VM.Observed.MISSING: ("circle-help", "state-failed"),
    VM.Observed.UNKNOWN: ("circle-help", "state-unknown"),
}
_WORKING = {
    "creating": gettext_lazy("Creating"),
    "starting": gettext_lazy("Starting"),
    "shutting_down": gettext_lazy("Shutting down"),
    "forcing_off": gettext_lazy("Switching off"),
    "rebooting": gettext_lazy("Restarting"),
    "resetting": gettext_lazy("Resetting"),
    "saving": gettext_lazy("Saving"),
    "suspending": gettext_lazy("Suspending"),
    "resuming": gettext_lazy("Resuming"),
    "deleting": gettext_lazy("Deleting"),
    "changing": gettext_lazy("Changing"),
    "trimming": gettext_lazy("Trimming"),
    "cloning": gettext_lazy("Cloning"),
    "lent": gettext_lazy("Being cloned"),
    "taking_snapshot": gettext_lazy("Taking a snapshot"),
    "reverting": gettext_lazy("Going back to a snapshot"),
    "deleting_snapshot": gettext_lazy("Deleting a snapshot"),
    "backing_up": gettext_lazy("Being backed up"),
    "flattening": gettext_lazy("Being made independent"),
    "moving": gettext_lazy("Moving to another host"),
    "restoring": gettext_lazy("Restoring"),
    "templating": gettext_lazy("Being made a template"),
    "ejecting": gettext_lazy("Ejecting the disc"),
    "idle_stop": gettext_lazy("Being stopped: nobody uses it"),
    "ending": gettext_lazy("Being stopped: its time is over"),
    "binning": gettext_lazy("Moving to the recycle bin"),
    "taking_back": gettext_lazy("Restoring"),
}


def state(vm: VM, active: Job | None) -> StateView:
    """What it does now: a task at work wins over what was last observed."""
    if active is not None and (not active.observing or active.kind == "vm.shutdown"):
        return StateView(
            key="working", word=_word(active), icon="loader-circle", css="state-working"
        )
    icon, css = _ICONS[VM.Observed(vm.observed)]
    if host_down := _host_down(vm):
        css, icon = "state-unknown", "unplug"
        return StateView(
            key=vm.observed,
            word=str(VM.Observed(vm.observed).label),
            icon=icon,
            css=css,
            detail=host_down,
        )
    detail = ""
    if vm.saved and vm.observed == VM.Observed.SHUTOFF:
        return StateView(
            key=vm.observed,
            word=_("Saved"),
            icon="hard-drive-download",
            css=css,
            detail=_("It is off; its memory is kept, and a start goes on from there."),
        )
    if vm.observed == VM.Observed.MISSING:
        detail = _("Its host answers, but does not know this machine any more.")
    return StateView(
        key=vm.observed, word=str(VM.Observed(vm.observed).label), icon=icon, css=css, detail=detail
    )


def _host_down(vm: VM) -> str:
    if vm.host is None or vm.host.reach != vm.host.Reach.DOWN:
        return ""
    if vm.host.reach_since is None:
        return _("Host %(host)s is unreachable.") % {"host": vm.host.name}
    since = timezone.localtime(vm.host.reach_since)
    today = since.date() == timezone.localdate()
    return _(
        "Host %(host)s is unreachable since %(time)s. This is the last state that was seen."
    ) % {
        "host": vm.host.name,
        "time": date_format(since, "H:i T" if today else "Y-m-d H:i T"),
    }


def fault_text(vm: VM) -> str:
    return messages.text(vm.fault_code, vm.fault_params) if vm.fault_code else ""


def known_addresses(vm: VM) -> list[str]:
    """All addresses, IPv4 first (what a person types), each network card in order."""
    found = [address for nic in vm.nics.all() for address in nic.addresses]
    return sorted(found, key=lambda address: ":" in address)


def connect_line(vm: VM, addresses: list[str]) -> str:
    if not addresses or vm.observed != VM.Observed.RUNNING:
        return ""
    return f"ssh {vm.first_user}@{addresses[0]}" if vm.first_user else f"ssh {addresses[0]}"


def size_text(vcpus: int, memory_mib: int) -> str:
    memory = f"{memory_mib / 1024:g} GiB" if memory_mib >= 1024 else f"{memory_mib} MiB"
    return ngettext("%(n)d vCPU", "%(n)d vCPUs", vcpus) % {"n": vcpus} + f" · {memory}"


def volumes(vm: VM) -> list[str]:
    """What a delete removes from the host."""
    found = [disk.volume for disk in vm.disks.all()]
    return [*found, *installer.seed_volumes(vm)]


# --- the task at work --------------------------------------------------------------------------


def task(job: Job) -> TaskView:
    kind = registry.find(job.kind)
    asked = job.started_at or job.created_at
    return TaskView(
        job_id=job.id,
        kind=job.kind,
        verb=kind.verb if kind else "",
        word=_word(job),
        step=job.step,
        step_label=jobs_presentation.step_label(job),
        progress=_overall(job, kind),
        step_progress=job.progress,
        waiting=jobs_presentation.waiting(job),
        observing=job.observing,
        cancellable=bool(kind and kind.cancellable and job.state != Job.State.COMPENSATING),
        started_at=job.started_at,
        guest_ignores=job.kind == "vm.shutdown"
        and job.observing
        and timezone.now() - asked > timedelta(seconds=settings.GUEST_PATIENCE_S),
    )


def _word(job: Job) -> str:
    if job.state == Job.State.COMPENSATING:
        return _("Cleaning up")
    kind = registry.find(job.kind)
    return str(_WORKING.get(kind.verb, kind.label)) if kind else job.kind


@dataclass(frozen=True)
class _Peek:
    """As much of a ``JobContext`` as decides whether a step is needed."""

    job: Job

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.job.params
        return params


def _needed(job: Job, kind: JobKind) -> list[StepSpec]:
    peek = cast("JobContext", _Peek(job))
    return [step for step in kind.steps if step.optional is None or step.optional(peek)]


def _overall(job: Job, kind: JobKind | None) -> float | None:
    """The share of the whole: weights of the steps before this one, and of this one so far."""
    if kind is None or (current := kind.step(job.step)) is None:
        return None
    # Only a creation's needs follow from its params; the others would ask the database.
    needed = _needed(job, kind) if job.kind in CREATIONS else list(kind.steps)
    if current not in needed:
        return None
    total = sum(step.weight for step in needed)
    before = sum(step.weight for step in needed[: needed.index(current)])
    return min(1.0, (before + current.weight * (job.progress or 0.0)) / total)


def steps(job: Job) -> list[StepView]:
    """Each step of a job, also those to come; those that it does not need are left out."""
    kind = registry.find(job.kind)
    begun = {
        view.key: StepView(
            key=view.key,
            label=view.label,
            state=Step.State.FAILED if view.failed else view.state,
            progress=view.progress,
            note=view.note,
            started_at=view.started_at,
            finished_at=view.finished_at,
        )
        for view in jobs_presentation.steps(job)
        if view.state != Step.State.PENDING
    }
    if kind is None or job.is_over:
        return list(begun.values())
    skipped = {row.key for row in job.steps.all() if row.state == Step.State.SKIPPED}
    shown = [step for step in kind.steps if step.key in begun or step.key not in skipped]
    needed = {step.key for step in _needed(job, kind)} | set(begun)
    return [begun.get(step.key) or _to_come(step) for step in shown if step.key in needed]


def _to_come(step: StepSpec) -> StepView:
    return StepView(
        key=step.key,
        label=str(step.label),
        state=Step.State.PENDING,
        progress=None,
        note="",
        started_at=None,
        finished_at=None,
    )


# --- verbs ---------------------------------------------------------------------------------------

_LABELS = {
    Verb.START: (gettext_lazy("Start"), "play"),
    Verb.START_PAUSED: (gettext_lazy("Start suspended"), "circle-pause"),
    Verb.SAVE: (gettext_lazy("Save"), "hard-drive-download"),
    Verb.DISCARD_SAVED: (gettext_lazy("Discard saved memory"), "x"),
    Verb.NMI: (gettext_lazy("Send NMI"), "microchip"),
    Verb.SHUTDOWN: (gettext_lazy("Shut down"), "power"),
    Verb.REBOOT: (gettext_lazy("Reboot"), "rotate-cw"),
    Verb.SUSPEND: (gettext_lazy("Suspend"), "pause"),
    Verb.RESUME: (gettext_lazy("Resume"), "play"),
    Verb.RESET: (gettext_lazy("Reset"), "zap"),
    Verb.FORCE_OFF: (gettext_lazy("Force off"), "power-off"),
    Verb.DELETE: (gettext_lazy("Delete"), "trash-2"),
}
_DANGER = {Verb.RESET, Verb.FORCE_OFF, Verb.DELETE, Verb.NMI, Verb.DISCARD_SAVED}


def verb_label(verb: str) -> str:
    return str(_LABELS[Verb(verb)][0])


def verb_icon(verb: str) -> str:
    return _LABELS[Verb(verb)][1]


def _verb(vm: VM, verb: Verb, code: str | None) -> VerbView:
    label, icon = _LABELS[verb]
    if verb is Verb.START and vm.saved:
        label, icon = gettext_lazy("Restore"), "play"
    runs = vm.observed in (VM.Observed.RUNNING, VM.Observed.PAUSED)
    host = vm.host.name if vm.host else ""
    return VerbView(
        verb=verb.value,
        label=str(label),
        icon=icon,
        allowed=code is None,
        why=messages.text(code, {"host": host}) if code else "",
        danger=verb in _DANGER,
        confirm=_confirm(vm, verb) if code is None else "",
        needs_name=verb is Verb.DELETE and runs,
    )


def _confirm(vm: VM, verb: Verb) -> str:
    if verb is Verb.DELETE:
        return _confirm_delete(vm)
    if verb not in _DANGER:
        return ""
    if verb is Verb.NMI:
        return _(
            "%(name)s gets a non-maskable interrupt. Most systems answer it with a crash and a "
            "memory dump, if they are set up for one. Use it to look into a guest that hangs."
        ) % {"name": vm.name}
    if verb is Verb.DISCARD_SAVED:
        return _(
            "What the programs of %(name)s had in memory when it was saved is lost; it boots at "
            "its next start."
        ) % {"name": vm.name}
    if verb is Verb.RESET:
        first = _("%(name)s restarts at once, as if by its reset button.")
    else:
        first = _("%(name)s is switched off at once, as if its plug was pulled.")
    parts = [
        first % {"name": vm.name},
        _("What its programs have not yet written to disk is lost."),
    ]
    return " ".join([*parts, _uptime(vm)]).strip()


def _confirm_delete(vm: VM) -> str:
    disks = ", ".join(f"{disk.volume} ({disk.size_gib} GiB)" for disk in vm.disks.all())
    if vm.binned_at is None and vm.observed not in (VM.Observed.UNKNOWN, VM.Observed.MISSING):
        text = _(
            "%(name)s goes to the recycle bin with its disks: %(disks)s. There it can be restored "
            "as it is until its time is over."
        )
    else:
        text = _("%(name)s and its disks are deleted for good: %(disks)s.")
    text %= {"name": vm.name, "disks": disks}
    if vm.observed in (VM.Observed.RUNNING, VM.Observed.PAUSED):
        text = " ".join([_("It is running and is switched off first."), _uptime(vm), text])
    return text


def _uptime(vm: VM) -> str:
    if vm.started_at is None or vm.observed not in (VM.Observed.RUNNING, VM.Observed.PAUSED):
        return ""
    return _("It has been running for %(time)s.") % {"time": timesince(vm.started_at)}
