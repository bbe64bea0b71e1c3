"""Recordings of consoles: who may make, see and delete them, and how much room they take.

The folder holds no more than ``RECORDINGS_MAX_MIB``: each recording that is being made counts as
large as it may become, and the oldest ones that have ended give way. What makes them is
``recorder``.
"""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, Sum
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Conflict, Invalid, NotFound
from accounts.policy import Action
from vms import timeline
from vms.consoles import control, sessions, sharing
from vms.models import VM, ConsoleRecording, ConsoleSession

if TYPE_CHECKING:
    from accounts.models import User

EXTENSIONS = {"vnc": "fbs", "serial": "cast"}
CONTENT_TYPES = {"vnc": "application/octet-stream", "serial": "application/x-asciicast"}
SEEN_EVERY_S = 2
STALE = timedelta(seconds=60)
# A file without a row is one whose row is being written, or one that a crash has left.
ORPHAN = timedelta(hours=1)
_MIB = 1 << 20


def most_bytes() -> int:
    """Of one recording."""
    return int(settings.RECORDING_MAX_MIB) * _MIB


def file_of(row: ConsoleRecording) -> Path:
    return settings.RECORDINGS_DIR / row.path


def index_of(row: ConsoleRecording) -> Path:
    """Where a VNC recording can be entered: a line of JSON for each picture that is whole."""
    return settings.RECORDINGS_DIR / f"{row.path}.index"


# --- making one ----------------------------------------------------------------------------------


def start(vm: VM, kind: str, *, actor: User) -> ConsoleRecording:
    """A recording is to be made; ``recorder.begin`` makes it. By owner, manager, admin."""
    sharing.require_steward(vm, actor)
    if settings.CONSOLE_RECORDING == "never":
        raise Conflict("console.recording_never")
    return _start(vm, kind, actor)


def start_by_rule(vm: VM, kind: str) -> ConsoleRecording | None:
    """Where every console is recorded. None: it is already, or it is not wanted or possible."""
    if settings.CONSOLE_RECORDING != "always":
        return None
    if ConsoleRecording.objects.filter(vm=vm, kind=kind, ended_at__isnull=True).exists():
        return None
    try:
        return _start(vm, kind, None)
    except Conflict:
        return None


@transaction.atomic
def _start(vm: VM, kind: str, actor: User | None) -> ConsoleRecording:
    if kind not in EXTENSIONS:
        kinds = ", ".join(EXTENSIONS)
        raise Invalid("console.kind", fields={"kind": "console.kind"}, kinds=kinds)
    if vm.observed not in (VM.Observed.RUNNING, VM.Observed.PAUSED):
        raise Conflict("console.not_running", name=vm.name)
    control.lock(vm)
    if ConsoleRecording.objects.filter(vm=vm, kind=kind, ended_at__isnull=True).exists():
        raise Conflict("console.recording_runs")
    _make_room()
    row = ConsoleRecording(vm=vm, kind=kind, started_by=actor)
    row.path = f"{row.pk}.{EXTENSIONS[kind]}"
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict("console.recording_runs") from error
    timeline.record(vm, "console.recording", actor=actor, kind_of_console=kind)
    audit.record(actor, "console.record", vm, after={"kind": kind, "recording": str(row.pk)})
    sessions.nudge(vm)
    return row


def _make_room() -> None:
    """For one more, as large as it may become. Conflict: those being made take all."""
    running = ConsoleRecording.objects.filter(ended_at__isnull=True)
    free = settings.RECORDINGS_MAX_MIB * _MIB - (running.count() + 1) * most_bytes()
    if free < 0:
        raise Conflict("console.recordings_full")
    ended = ConsoleRecording.objects.filter(ended_at__isnull=False)
    used = ended.aggregate(total=Sum("size_bytes"))["total"] or 0
    for row in ended.order_by("ended_at"):
        if used <= free:
            return
        used -= row.size_bytes
        _remove(row)


def ask_to_stop(row: ConsoleRecording, *, actor: User) -> None:
    """It ends within a few seconds, wherever it is made."""
    sharing.require_steward(row.vm, actor)
    asked = ConsoleRecording.objects.filter(
        pk=row.pk, ended_at__isnull=True, stop_asked_at__isnull=True
    ).update(stop_asked_at=timezone.now())
    if asked:
        audit.record(actor, "console.record_stop", row.vm, after={"recording": str(row.pk)})
        sessions.nudge(row.vm)


def seen(row: ConsoleRecording, *, size_bytes: int, duration_ms: int) -> str:
    """Note that it goes on; why it must end now, or ``""``."""
    ConsoleRecording.objects.filter(pk=row.pk).update(
        seen_at=timezone.now(), size_bytes=size_bytes, duration_ms=duration_ms
    )
    fresh = ConsoleRecording.objects.select_related("vm").filter(pk=row.pk).first()
    if fresh is None or fresh.ended_at is not None or fresh.vm.deleted_at is not None:
        return "deleted"
    if fresh.stop_asked_at is not None:
        return "stopped_by"
    if fresh.started_by_id is None and not _somebody_looks(fresh):
        return "left"
    return ""


def _somebody_looks(row: ConsoleRecording) -> bool:
    """At this kind of console, or they have only just begun to, or left a moment ago."""
    moment = timezone.now() - control.LAPSE
    if row.started_at > moment:
        return True
    of_kind = ConsoleSession.objects.filter(vm=row.vm, kind=row.kind)
    return of_kind.live().exists() or of_kind.filter(ended_at__gt=moment).exists()


def finish(row: ConsoleRecording, reason: str, *, size_bytes: int, duration_ms: int) -> None:
    ended = ConsoleRecording.objects.filter(pk=row.pk, ended_at__isnull=True).update(
        ended_at=timezone.now(),
        end_reason=reason[:32],
        size_bytes=size_bytes,
        duration_ms=duration_ms,
    )
    if ended:
        with transaction.atomic():
            timeline.record(row.vm, "console.recorded", kind_of_console=row.kind, reason=reason)
            sessions.nudge(row.vm)


# --- seeing and deleting -------------------------------------------------------------------------


def listed(vm: VM, user: User) -> list[ConsoleRecording]:
    """Of who sees the machine: an invite to its console shows none of what was before it."""
    policy.require(user, Action.SEE, vm)
    policy.require(user, Action.CONSOLE_VIEW, vm)
    return list(ConsoleRecording.objects.filter(vm=vm).select_related("started_by", "vm"))


def one(user: User, pk: UUID | str) -> ConsoleRecording:
    """NotFound, also when its machine is not theirs to see."""
    try:
        pk = pk if isinstance(pk, UUID) else UUID(pk)
    except ValueError as error:
        raise NotFound("console.no_recording") from error
    row = ConsoleRecording.objects.select_related("vm", "started_by").filter(pk=pk).first()
    if row is None or row.vm.deleted_at is not None:
        raise NotFound("console.no_recording")
    if not (policy.can(user, Action.SEE, row.vm) and policy.can(user, Action.CONSOLE_VIEW, row.vm)):
        raise NotFound("console.no_recording")
    return row


def may_see(user: User, pk: UUID) -> bool:
    try:
        one(user, pk)
    except NotFound:
        return False
    return True


def entries(row: ConsoleRecording) -> list[list[int]]:
    """Where it can be entered; none for a serial line, or while nothing is on the disk yet."""
    try:
        lines = index_of(row).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line may be half written
            found.append([int(number) for number in json.loads(line)])
    return found


@transaction.atomic
def delete(row: ConsoleRecording, *, actor: User) -> None:
    """By owner, manager, admin. Conflict while it is being made."""
    sharing.require_steward(row.vm, actor)
    if row.ended_at is None:
        raise Conflict("console.recording_runs_still")
    audit.record(
        actor,
        "console.recording_delete",
        row.vm,
        before={"recording": str(row.pk), "kind": row.kind, "size_bytes": row.size_bytes},
    )
    timeline.record(row.vm, "console.recording_deleted", actor=actor, kind_of_console=row.kind)
    _remove(row)
    sessions.nudge(row.vm)


def _remove(row: ConsoleRecording) -> None:
    files = (file_of(row), index_of(row))
    row.delete()

    def unlink() -> None:
        for path in files:
            path.unlink(missing_ok=True)

    transaction.on_commit(unlink)


def tidy() -> None:
    """Hourly: what is too old or of machines that are gone, what a lost process has left open, and
    files without a row."""
    now = timezone.now()
    lost = ConsoleRecording.objects.filter(ended_at__isnull=True, seen_at__lt=now - STALE)
    lost.update(ended_at=F("seen_at"), end_reason="lost")
    too_old = Q(ended_at__lt=now - timedelta(days=settings.RECORDING_DAYS))
    for row in ConsoleRecording.objects.filter(
        too_old | Q(vm__deleted_at__isnull=False), ended_at__isnull=False
    ):
        _remove(row)
    known = set(ConsoleRecording.objects.values_list("path", flat=True))
    if not settings.RECORDINGS_DIR.is_dir():
        return
    for path in settings.RECORDINGS_DIR.iterdir():
        if path.name.removesuffix(".index") in known:
            continue
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < (now - ORPHAN).timestamp():
                path.unlink()
