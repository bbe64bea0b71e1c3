"""Who has the keyboard of a machine: one person, for all its consoles.

It lapses ``LAPSE`` after that person's last session with control has ended, and at once when they
may not control it any more. ``ConsoleControl.user`` None says that it was put down: then nobody
gets it by merely opening a console, as long as anybody looks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Conflict
from accounts.policy import Action
from vms import timeline
from vms.consoles import sessions
from vms.models import VM, ConsoleAsk, ConsoleControl, ConsoleSession

if TYPE_CHECKING:
    from accounts.models import User

LAPSE = timedelta(seconds=30)
STEWARDS = frozenset({"admin", "owner", "manager"})


def holder(vm: VM) -> User | None:
    """Who has control now."""
    row = _live(vm)
    return row.user if row is not None else None


def is_free(vm: VM) -> bool:
    """Nobody has it, and nobody put it down on purpose: it comes with the next console."""
    return _live(vm) is None


def is_steward(user: User, vm: VM) -> bool:
    """Who may take control back, invite and record: owner, manager of the team, admin."""
    return policy.relation(user, vm) in STEWARDS


def claim(vm: VM, user: User, *, take: bool = False) -> None:
    """Control for who opens a console with it. Conflict ``console.held`` while another has it,
    unless ``take`` is asked by who may take it back. Inside the caller's transaction."""
    lock(vm)
    row = _live(vm)
    if row is None or row.user_id == user.pk:
        _write(vm, user)
        return
    if row.user is not None and not (take and is_steward(user, vm)):
        raise Conflict("console.held", name=row.user.display_name())
    move(vm, user, actor=user)


def move(vm: VM, to: User | None, *, actor: User) -> None:
    """Control goes to ``to`` (None: it is put down), said to everybody. The machine is locked."""
    before = holder(vm)
    _write(vm, to)
    if to is not None:
        ConsoleAsk.objects.filter(vm=vm, user=to).delete()
    if before == to:
        return
    how = "released" if to is None else "taken" if to == actor else "given"
    timeline.record(
        vm,
        f"console.{how}",
        actor=actor,
        before=before.display_name() if before else "",
        to=to.display_name() if to else "",
    )
    audit.record(
        actor,
        f"console.control_{how}",
        vm,
        before={"holder": before.username if before else None},
        after={"holder": to.username if to else None},
    )
    holder_id = to.pk if to is not None else None
    transaction.on_commit(lambda: sessions.tell_mode(vm.uuid, holder_id))
    sessions.nudge(vm)


def lock(vm: VM) -> None:
    """Until the end of the transaction nobody else decides about this machine's control."""
    VM.objects.select_for_update().only("pk").get(pk=vm.pk)


def _write(vm: VM, user: User | None) -> None:
    ConsoleControl.objects.update_or_create(
        vm=vm, defaults={"user": user, "taken_at": timezone.now()}
    )


def _live(vm: VM) -> ConsoleControl | None:
    row = ConsoleControl.objects.select_related("user").filter(vm=vm).first()
    if row is None:
        return None
    now = timezone.now()
    of_vm = ConsoleSession.objects.filter(vm=vm)
    if row.user is None:
        return row if of_vm.live().exists() else None
    if not policy.can(row.user, Action.CONSOLE_CONTROL, vm):
        return None
    if row.taken_at > now - LAPSE:
        return row
    open_or_just_closed = of_vm.filter(user=row.user, mode="control").filter(
        Q(ended_at__isnull=True, seen_at__gt=now - ConsoleSession.STALE)
        | Q(ended_at__gt=now - LAPSE)
    )
    return row if open_or_just_closed.exists() else None
