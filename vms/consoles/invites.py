"""Invites to one machine's console: links for people of this site, for a while or for one person.

An invite opens the console and nothing else of the machine. It counts until it expires or is
revoked, and no longer than the person who made it may invite.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import Membership
from accounts.policy import Action
from vms import timeline
from vms.models import VM, ConsoleInvite, ConsoleInviteUse

if TYPE_CHECKING:
    from accounts.models import User

ACTIONS = {
    "view": frozenset({Action.CONSOLE_VIEW}),
    "control": frozenset({Action.CONSOLE_VIEW, Action.CONSOLE_CONTROL}),
}
HOURS = 24
HOURS_MAX = 30 * 24
LIVE_MAX = 50  # of one machine


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def live() -> QuerySet[ConsoleInvite]:
    """Those that count now: also their maker must still be who may invite."""
    manages = Membership.objects.filter(
        team=OuterRef("vm__team"),
        user=OuterRef("made_by"),
        role=Membership.Role.MANAGER,
    )
    return ConsoleInvite.objects.filter(
        Q(made_by__is_staff=True) | Q(made_by=F("vm__owner")) | Exists(manages),
        made_by__is_active=True,
        revoked_at__isnull=True,
        expires_at__gt=timezone.now(),
        vm__deleted_at__isnull=True,
    )


def grants(user_id: int) -> dict[UUID, frozenset[Action]]:
    """What invites give this person, for the one door."""
    found: dict[UUID, frozenset[Action]] = {}
    rows = live().filter(uses__user=user_id).order_by().values_list("vm__uuid", "mode")
    for uuid, mode in rows:
        found[uuid] = found.get(uuid, frozenset()) | ACTIONS[mode]
    return found


def needed_by(user: User, vm: VM) -> ConsoleInvite | None:
    """The invite without which ``user`` could not open the console of ``vm``."""
    if policy.relation(user, vm) is not None:
        return None
    return live().filter(uses__user=user, vm=vm).order_by("mode", "id").first()  # control first


def machines_of(user_id: int) -> Iterable[UUID]:
    """Machines to whose consoles this person has invited others."""
    rows = ConsoleInvite.objects.filter(
        made_by=user_id, revoked_at__isnull=True, expires_at__gt=timezone.now()
    )
    return list(rows.order_by().values_list("vm__uuid", flat=True).distinct())


@transaction.atomic
def make(vm: VM, *, actor: User, mode: str, once: bool, hours: int) -> tuple[ConsoleInvite, str]:
    """The invite and its token, which is not kept. The caller has asked whether they may."""
    if mode not in ACTIONS:
        raise Invalid("console.mode", fields={"mode": "console.mode"})
    if not 1 <= hours <= HOURS_MAX:
        raise Invalid(
            "console.invite_hours", fields={"hours": "console.invite_hours"}, most=HOURS_MAX
        )
    VM.objects.select_for_update().only("pk").get(pk=vm.pk)
    if live().filter(vm=vm).count() >= LIVE_MAX:
        raise Conflict("console.invites_many", most=LIVE_MAX)
    token = secrets.token_urlsafe(32)
    row = ConsoleInvite.objects.create(
        vm=vm,
        made_by=actor,
        mode=mode,
        once=once,
        token_hash=digest(token),
        expires_at=timezone.now() + timedelta(hours=hours),
    )
    timeline.record(vm, "console.invited", actor=actor, mode=mode, once=once)
    audit.record(
        actor,
        "console.invite",
        vm,
        after={"mode": mode, "once": once, "hours": hours, "id": row.pk},
    )
    return row, token


@transaction.atomic
def revoke(row: ConsoleInvite, *, actor: User) -> bool:
    """Whether it counted until now."""
    revoked = ConsoleInvite.objects.filter(pk=row.pk, revoked_at__isnull=True).update(
        revoked_at=timezone.now()
    )
    if revoked:
        timeline.record(row.vm, "console.invite_revoked", actor=actor, mode=row.mode)
        audit.record(actor, "console.invite_revoke", row.vm, before={"id": row.pk})
    return bool(revoked)


def by_token(token: str) -> ConsoleInvite:
    """For the page that asks whether to join. NotFound: unknown, expired, revoked."""
    row = live().select_related("vm__host", "made_by").filter(token_hash=digest(token)).first()
    if row is None:
        raise NotFound("console.invite")
    return row


@transaction.atomic
def use(token: str, *, actor: User) -> VM:
    """Take an invite up; taking it up again changes nothing. Who may all of it anyway does not
    use it up. Conflict: it was for one person, and that was somebody else."""
    row = by_token(token)
    # Two who press at once: the second sees the first one's use.
    ConsoleInvite.objects.select_for_update().get(pk=row.pk)
    if all(policy.can(actor, action, row.vm) for action in ACTIONS[row.mode]):
        return row.vm
    if row.once and row.uses.exclude(user=actor).exists():
        raise Conflict("console.invite_used")
    _, made = ConsoleInviteUse.objects.get_or_create(invite=row, user=actor)
    if made:
        timeline.record(row.vm, "console.joined", actor=actor, mode=row.mode)
        audit.record(actor, "console.join", row.vm, after={"invite": row.pk, "mode": row.mode})
    return row.vm
