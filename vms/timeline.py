"""A machine's timeline: what happened to it, when, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils.text import Truncator

from accounts import messages
from vms.models import VM, VMEvent

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.models import Job

_WORD_MAX = 60  # of a description, which may be long

_ICONS = {
    "state.running": "circle-play",
    "state.paused": "circle-pause",
    "state.shutoff": "circle-stop",
    "state.crashed": "circle-alert",
    "state.missing": "circle-help",
    "moved": "server",
    "move.asked": "server",
    "job.failed": "circle-alert",
    "job.cancelled": "circle-slash",
    "job.succeeded": "circle-check",
    "edited": "pencil",
    "hardware.changed": "sliders-horizontal",
    "hardware.in_force": "sliders-horizontal",
    "snapshot.taken": "history",
    "snapshot.reverted": "undo-2",
    "outside.defined": "terminal",
    "outside.device_added": "plug",
    "outside.device_removed": "unplug",
    "owner": "user-cog",
    "port.published": "globe",
    "port.opened": "globe",
    "port.closed": "circle-slash",
    "backup.taken": "archive",
    "backup.restored": "rotate-ccw",
    "template.made": "layers",
    "lease.set": "hourglass",
    "lease.over": "hourglass",
    "lease.idle": "moon",
    "lease.kept": "circle-play",
    "binned": "trash-2",
    "taken_back": "rotate-ccw",
    "console.opened": "monitor",
    "console.closed": "monitor",
    "console.taken": "keyboard",
    "console.given": "keyboard",
    "console.released": "keyboard",
    "console.invited": "link",
    "console.invite_revoked": "link",
    "console.joined": "user",
    "console.recording": "monitor-play",
    "console.recorded": "monitor-play",
    "console.recording_deleted": "trash-2",
    "first_boot.done": "circle-check",
    "first_boot.failed": "circle-alert",
    "first_boot.silent": "circle-help",
}


# What people look for -> the kinds of lines that are it, by their beginning.
GROUPS: dict[str, tuple[str, ...]] = {
    "state": ("state.", "first_boot.", "moved"),
    "jobs": ("move.", "asked", "requested", "job.", "clone.", "template.", "binned", "taken_back"),
    "settings": ("edited", "hardware.", "outside.", "owner", "lease.", "port."),
    "snapshots": ("snapshot.", "backup."),
    "consoles": ("console.",),
}


@dataclass(frozen=True, kw_only=True)
class TimelineEntry:
    at: datetime
    kind: str
    icon: str
    text: str
    actor_name: str  # "" when nobody of ours did it
    job_id: UUID | None


def record(
    vm: VM, kind: str, *, actor: User | None = None, job: Job | None = None, **params: Any
) -> VMEvent:
    """One more line. ``timeline.<kind>`` is the code of its text, ``params`` fill it."""
    return VMEvent.objects.create(vm=vm, kind=kind, actor=actor, job=job, params=params)


def lines(vm: VM, only: str = "") -> QuerySet[VMEvent, VMEvent]:
    """The newest first; of one of ``GROUPS``, or all."""
    found = vm.events.all()
    wanted = Q()
    for beginning in GROUPS.get(only, ()):
        wanted |= Q(kind__startswith=beginning)
    return found.filter(wanted)


def entries(vm: VM, limit: int = 50, *, only: str = "") -> list[TimelineEntry]:
    """The newest first, in the reader's language."""
    rows = lines(vm, only).select_related("actor")[:limit]
    return [
        TimelineEntry(
            at=row.at,
            kind=row.kind,
            icon=_ICONS.get(row.kind, "circle-dot"),
            text=messages.text(f"timeline.{row.kind}", _filled(row.params)),
            actor_name=row.actor.display_name() if row.actor else "",
            job_id=row.job_id,
        )
        for row in rows
    ]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """``vcpus 1 → 2, memory_mib 1024 → 2048``: the API's words, which no language changes."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {_word(before, name)} → {_word(after, name)}" for name in names)


def _word(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, list):
        value = " ".join(str(one) for one in value)
    if value is None or value == "":
        return "–"
    return Truncator(" ".join(str(value).split())).chars(_WORD_MAX)


def _filled(params: dict[str, Any]) -> dict[str, Any]:
    """``task`` names a kind of job: its label is looked up when read, so it is in the reader's
    language."""
    from jobs import registry

    kind = params.get("task")
    known = registry.all_kinds()
    return params | {"task": str(known[kind].label)} if kind in known else params
