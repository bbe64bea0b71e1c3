"""A console that several people use: who is here, who has control, who may come.

Pages and the API call these; each decision goes through the one door, is audited, stands in the
machine's timeline, and nudges the pages that show it (topic ``console``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import transaction

from accounts import policy
from accounts.errors import Conflict, Forbidden, NotFound
from accounts.policy import Action
from jobs import live
from vms import queries
from vms.consoles import control, invites, sessions
from vms.models import VM, ConsoleAsk, ConsoleInvite, ConsoleRecording, ConsoleSession

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody at a console. Who has two of one kind and mode open is here once."""

    user_id: int
    name: str
    kind: str  # vnc | serial; "" for who only asks
    mode: str  # control only for who has it now
    since: datetime
    is_me: bool
    invited: bool  # here by an invite


@dataclass(frozen=True, kw_only=True)
class May:
    """What the reader may do about sharing now."""

    ask: bool
    give: bool
    take: bool
    release: bool
    invite: bool
    record: bool


@dataclass(frozen=True, kw_only=True)
class SharingState:
    people: list[Person]
    holder_id: int | None
    holder_name: str
    asks: list[Person]
    i_asked: bool
    i_may: May
    recordings: list[ConsoleRecording]  # that are being made now


def machine(user: User, uuid: UUID | str) -> VM:
    """The machine for its console's page and API: also for who is invited. NotFound."""
    try:
        uuid = uuid if isinstance(uuid, UUID) else UUID(uuid)
    except ValueError as error:
        raise NotFound("vm.not_found") from error
    vm = queries.with_related(VM.objects.alive()).filter(uuid=uuid).first()
    if vm is None or not policy.can(user, Action.CONSOLE_VIEW, vm):
        raise NotFound("vm.not_found")
    return vm


def state(vm: VM, user: User) -> SharingState:
    """Who is here, as ``user`` may see and change it. Reads the database only."""
    holder = control.holder(vm)
    people = _people(vm, user, holder)
    here = {person.user_id for person in people}
    asks = _asks(vm, user, here)
    may_control = policy.can(user, Action.CONSOLE_CONTROL, vm)
    steward = control.is_steward(user, vm)
    has_it = holder is not None and holder.pk == user.pk
    i_asked = any(ask.is_me for ask in asks)
    return SharingState(
        people=people,
        holder_id=holder.pk if holder else None,
        holder_name=holder.display_name() if holder else "",
        asks=asks,
        i_asked=i_asked,
        i_may=May(
            ask=may_control and holder is not None and not has_it and not i_asked,
            give=has_it or steward,
            take=may_control and not has_it and (holder is None or steward),
            release=has_it,
            invite=steward,
            record=_may_record(steward),
        ),
        recordings=list(
            ConsoleRecording.objects.filter(vm=vm, ended_at__isnull=True).select_related(
                "started_by"
            )
        ),
    )


def _may_record(steward: bool) -> bool:
    from django.conf import settings

    return steward and settings.CONSOLE_RECORDING != "never"


def _people(vm: VM, user: User, holder: User | None) -> list[Person]:
    rows = ConsoleSession.objects.live().filter(vm=vm, user__isnull=False)
    found: dict[tuple[int, str, str], Person] = {}
    for row in rows.select_related("user").order_by("started_at", "pk"):
        if row.user is None:
            continue
        has_it = row.mode == "control" and holder is not None and holder.pk == row.user.pk
        mode = "control" if has_it else "view"
        person = Person(
            user_id=row.user.pk,
            name=row.user.display_name(),
            kind=row.kind,
            mode=mode,
            since=row.started_at,
            is_me=row.user.pk == user.pk,
            invited=row.invite_id is not None,
        )
        found.setdefault((row.user.pk, row.kind, mode), person)
    return list(found.values())


def _asks(vm: VM, user: User, here: set[int]) -> list[Person]:
    rows = ConsoleAsk.objects.filter(vm=vm, user__in=here).select_related("user")
    return [
        Person(
            user_id=row.user.pk,
            name=row.user.display_name(),
            kind="",
            mode="view",
            since=row.asked_at,
            is_me=row.user.pk == user.pk,
            invited=False,
        )
        for row in rows
    ]


# --- control -------------------------------------------------------------------------------------


@transaction.atomic
def ask(vm: VM, *, actor: User) -> None:
    """Ask who has control for it; where nobody has it, it is taken at once."""
    policy.require(actor, Action.CONSOLE_CONTROL, vm)
    control.lock(vm)
    holder = control.holder(vm)
    if holder is None:
        control.move(vm, actor, actor=actor)
    elif holder.pk != actor.pk:
        _must_be_here(vm, actor)
        ConsoleAsk.objects.get_or_create(vm=vm, user=actor)
        sessions.nudge(vm)


@transaction.atomic
def withdraw(vm: VM, *, actor: User) -> None:
    policy.require(actor, Action.CONSOLE_VIEW, vm)
    if ConsoleAsk.objects.filter(vm=vm, user=actor).delete()[0]:
        sessions.nudge(vm)


@transaction.atomic
def give(vm: VM, *, actor: User, to: User) -> None:
    """Hand control to somebody who is here. By who has it, or may take it back."""
    policy.require(actor, Action.CONSOLE_VIEW, vm)
    control.lock(vm)
    holder = control.holder(vm)
    if (holder is None or holder.pk != actor.pk) and not control.is_steward(actor, vm):
        raise Forbidden("console.not_holder")
    _must_be_here(vm, to)
    if not policy.can(to, Action.CONSOLE_CONTROL, vm):
        raise Conflict("console.views_only", name=to.display_name())
    control.move(vm, to, actor=actor)


@transaction.atomic
def take(vm: VM, *, actor: User) -> None:
    """Take control: where nobody has it whoever may control, back from others only stewards."""
    policy.require(actor, Action.CONSOLE_CONTROL, vm)
    control.lock(vm)
    holder = control.holder(vm)
    if holder is not None and holder.pk != actor.pk and not control.is_steward(actor, vm):
        raise Conflict("console.held", name=holder.display_name())
    control.move(vm, actor, actor=actor)


@transaction.atomic
def release(vm: VM, *, actor: User) -> None:
    """Put control down: then nobody has it until somebody takes it."""
    policy.require(actor, Action.CONSOLE_VIEW, vm)
    control.lock(vm)
    holder = control.holder(vm)
    if holder is None or holder.pk != actor.pk:
        raise Conflict("console.not_holder")
    control.move(vm, None, actor=actor)


def _must_be_here(vm: VM, user: User) -> None:
    if not ConsoleSession.objects.live().filter(vm=vm, user=user).exists():
        raise Conflict("console.not_here", name=user.display_name())


# --- invites -------------------------------------------------------------------------------------


def require_steward(vm: VM, user: User) -> None:
    """Owner, manager of the team, admin; others are refused, who may not look gets NotFound."""
    policy.require(user, Action.CONSOLE_VIEW, vm)
    if not control.is_steward(user, vm):
        raise Forbidden("forbidden")


def invite(
    vm: VM, *, actor: User, mode: str = "view", once: bool = False, hours: int = invites.HOURS
) -> tuple[ConsoleInvite, str]:
    """An invite and the token of its link ``/console/join/<token>/``, told this once."""
    require_steward(vm, actor)
    return invites.make(vm, actor=actor, mode=mode, once=once, hours=hours)


def list_invites(vm: VM, *, actor: User) -> list[ConsoleInvite]:
    """Those that count now, with who used them."""
    require_steward(vm, actor)
    rows = invites.live().filter(vm=vm).select_related("made_by")
    return list(rows.prefetch_related("uses__user"))


def revoke_invite(row: ConsoleInvite, *, actor: User) -> None:
    """It ends, and with it the consoles of those who had nothing else."""
    require_steward(row.vm, actor)
    if invites.revoke(row, actor=actor):
        group = sessions.vm_group(row.vm.uuid)
        transaction.on_commit(lambda: sessions.end_consoles(group, "revoked", only_if_refused=True))
        for user_id in row.uses.values_list("user_id", flat=True):
            transaction.on_commit(partial(live.regroup, row.vm.uuid, user_id, None))


def join(token: str, *, actor: User) -> VM:
    """Take an invite up. NotFound: unknown, late, revoked. Conflict: used by somebody else."""
    vm = invites.use(token, actor=actor)
    # Their pages follow the machine's state from now on.
    transaction.on_commit(partial(live.regroup, vm.uuid, actor.pk, None))
    return vm
