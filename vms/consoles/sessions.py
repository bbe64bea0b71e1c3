"""Open consoles: their rows, their limits, and the messages that end them at once."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.utils import timezone

from accounts import audit
from accounts.errors import TooMany
from accounts.revocations import Revocation, on_access_revoked
from vms import timeline
from vms.consoles.tickets import Grant
from vms.models import ConsoleSession

log = logging.getLogger(__name__)

PER_USER = 20
PER_VM = 50
RECHECK_S = 20
STALE = timedelta(seconds=3 * RECHECK_S)


def vm_group(vm_uuid: Any) -> str:
    return f"console.vm.{vm_uuid}"


def user_group(user_id: int) -> str:
    return f"console.user.{user_id}"


def session_group(session_key: str) -> str:
    return f"console.session.{session_key}"


def open_session(grant: Grant, *, carrier: str, address: str) -> ConsoleSession:
    """Note that a console opens. TooMany past the limits per person and per machine."""
    alive = ConsoleSession.objects.filter(ended_at__isnull=True, seen_at__gt=timezone.now() - STALE)
    if alive.filter(user=grant.user).count() >= PER_USER:
        raise TooMany("console.per_user", most=PER_USER)
    if alive.filter(vm=grant.vm).count() >= PER_VM:
        raise TooMany("console.per_vm", most=PER_VM)
    session = ConsoleSession.objects.create(
        user=grant.user,
        vm=grant.vm,
        kind=grant.kind,
        mode=grant.mode,
        carrier=carrier,
        address=address[:45],
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
    return session


def touch(session: ConsoleSession, *, bytes_in: int, bytes_out: int) -> None:
    ConsoleSession.objects.filter(pk=session.pk).update(
        seen_at=timezone.now(), bytes_in=bytes_in, bytes_out=bytes_out
    )


def close_session(session: ConsoleSession, *, reason: str, bytes_in: int, bytes_out: int) -> None:
    now = timezone.now()
    ConsoleSession.objects.filter(pk=session.pk, ended_at__isnull=True).update(
        ended_at=now, seen_at=now, bytes_in=bytes_in, bytes_out=bytes_out, end_reason=reason[:32]
    )


def end_consoles(group: str, reason: str, *, only_if_refused: bool = False) -> None:
    """Close the consoles of a group within a second; with ``only_if_refused`` those whose
    permission, asked again, is gone. Never raises: each console asks again by itself anyway."""
    layer = get_channel_layer()
    if layer is None:
        return
    message = {"type": "console.end", "reason": reason, "ask": only_if_refused}
    try:
        async_to_sync(layer.group_send)(group, message)
    except Exception:
        log.warning("cannot tell consoles in %s to end; their re-check will", group, exc_info=True)


def end_for_vm(vm_uuid: Any) -> None:
    end_consoles(vm_group(vm_uuid), "deleted")


@on_access_revoked
def _access_revoked(revocation: Revocation) -> None:
    if revocation.session_key:
        end_consoles(session_group(revocation.session_key), "signed_out")
    elif revocation.reason == "deactivated":
        end_consoles(user_group(revocation.user_id), "revoked")
    else:
        end_consoles(user_group(revocation.user_id), "revoked", only_if_refused=True)
