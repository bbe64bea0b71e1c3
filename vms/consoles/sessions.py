"""Open consoles: their rows, their limits, and the messages that end or change them at once."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts import audit
from accounts.errors import TooMany
from accounts.revocations import Revocation, on_access_revoked
from jobs import live
from vms import timeline
from vms.consoles import invites
from vms.models import VM, ConsoleAsk, ConsoleSession

if TYPE_CHECKING:
    from vms.consoles.tickets import Grant

log = logging.getLogger(__name__)

PER_USER = 20
PER_VM = 80  # a class of 30, each with screen and serial line, and some more
PER_ADDRESS = 200  # a whole class may sit behind one
RECHECK_S = ConsoleSession.SEEN_EVERY_S
STALE = ConsoleSession.STALE
# Reasons that are told elsewhere, or that the next session follows at once.
_QUIET_ENDS = frozenset({"handed_over", "control_given"})


def vm_group(vm_uuid: Any) -> str:
    return f"console.vm.{vm_uuid}"


def user_group(user_id: int) -> str:
    return f"console.user.{user_id}"


def session_group(session_key: str) -> str:
    return f"console.session.{session_key}"


@transaction.atomic
def open_session(grant: Grant, *, carrier: str, address: str) -> ConsoleSession:
    """Note that a console opens. TooMany past the limits per person, machine and address."""
    _one_at_a_time()
    alive = ConsoleSession.objects.live()
    if alive.filter(user=grant.user).count() >= PER_USER:
        raise TooMany("console.per_user", most=PER_USER)
    if alive.filter(vm=grant.vm).count() >= PER_VM:
        raise TooMany("console.per_vm", most=PER_VM)
    if address and alive.filter(address=address[:45]).count() >= PER_ADDRESS:
        raise TooMany("console.per_address", most=PER_ADDRESS)
    session = ConsoleSession.objects.create(
        user=grant.user,
        vm=grant.vm,
        kind=grant.kind,
        mode=grant.mode,
        carrier=carrier,
        address=address[:45],
        invite=invites.needed_by(grant.user, grant.vm),
    )
    timeline.record(
        grant.vm, "console.opened", actor=grant.user, kind_of_console=grant.kind, mode=grant.mode
    )
    audit.record(
        grant.user,
        "console.open",
        grant.vm,
        after={"kind": grant.kind, "mode": grant.mode, "address": address},
    )
    nudge(grant.vm)
    return session


def _one_at_a_time() -> None:
    """Until the end of the transaction no other console is counted and noted, or parallel ones
    would pass the limits together. On SQLite the writing transaction itself excludes the others."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [zlib.crc32(b"kvmweb.consoles")])


def touch(session: ConsoleSession, *, bytes_in: int, bytes_out: int) -> None:
    ConsoleSession.objects.filter(pk=session.pk).update(
        seen_at=timezone.now(), bytes_in=bytes_in, bytes_out=bytes_out
    )


def change_mode(session: ConsoleSession, mode: str) -> None:
    """For a console that goes on when control moves (serial)."""
    ConsoleSession.objects.filter(pk=session.pk).update(mode=mode)
    session.mode = mode
    nudge(session.vm)


@transaction.atomic
def close_session(session: ConsoleSession, *, reason: str, bytes_in: int, bytes_out: int) -> None:
    """Note its end, once: the first reason stays."""
    now = timezone.now()
    closed = ConsoleSession.objects.filter(pk=session.pk, ended_at__isnull=True).update(
        ended_at=now, seen_at=now, bytes_in=bytes_in, bytes_out=bytes_out, end_reason=reason[:32]
    )
    if not closed:
        return
    said = {"kind": session.kind, "mode": session.mode, "reason": reason}
    audit.record(
        session.user,
        "console.close",
        session.vm,
        after=said | {"bytes_in": bytes_in, "bytes_out": bytes_out},
    )
    if reason not in _QUIET_ENDS:
        timeline.record(
            session.vm,
            "console.closed",
            actor=session.user,
            kind_of_console=session.kind,
            reason=reason,
        )
    if not ConsoleSession.objects.live().filter(vm=session.vm, user=session.user).exists():
        ConsoleAsk.objects.filter(vm=session.vm, user=session.user).delete()
    nudge(session.vm, also=[session.user_id] if session.user_id else [])


def end_lost() -> None:
    """Close the rows of consoles whose process died; called by the reconciler."""
    ConsoleSession.objects.filter(ended_at__isnull=True, seen_at__lt=timezone.now() - STALE).update(
        ended_at=F("seen_at"), end_reason="lost"
    )


# --- messages ------------------------------------------------------------------------------------


def end_consoles(group: str, reason: str, *, only_if_refused: bool = False) -> None:
    """Close the consoles of a group within a second; with ``only_if_refused`` those whose
    permission, asked again, is gone. Never raises: each console asks again by itself anyway."""
    _send(group, {"type": "console.end", "reason": reason, "ask": only_if_refused})


def tell_mode(vm_uuid: Any, holder_id: int | None) -> None:
    """Control has moved: consoles whose mode is not right any more end or change."""
    _send(vm_group(vm_uuid), {"type": "console.mode", "holder": holder_id})


def _send(group: str, message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(group, message)
    except Exception:
        log.warning("cannot tell consoles in %s: they ask again by themselves", group)
        log.debug("telling consoles in %s", group, exc_info=True)


def nudge(vm: VM, *, also: Iterable[int] = ()) -> None:
    """Pages that show who is here fetch it again: theirs who see the machine, or are here."""
    here = ConsoleSession.objects.live().filter(vm=vm, user__isnull=False)
    people = {*here.values_list("user_id", flat=True), *also}
    groups = live.machine_groups(vm.owner_id, vm.team_id, vm.uuid)
    groups |= {live.user_group(pk) for pk in people if pk is not None}
    live.publish_on_commit("console", vm.uuid, groups=groups)


@on_access_revoked
def _access_revoked(revocation: Revocation) -> None:
    if revocation.session_key:
        end_consoles(session_group(revocation.session_key), "signed_out")
    elif revocation.reason == "deactivated":
        end_consoles(user_group(revocation.user_id), "revoked")
    else:
        end_consoles(user_group(revocation.user_id), "revoked", only_if_refused=True)
    if not revocation.session_key and revocation.token_id is None:
        # An invite counts no longer than its maker may invite.
        for uuid in invites.machines_of(revocation.user_id):
            end_consoles(vm_group(uuid), "revoked", only_if_refused=True)
