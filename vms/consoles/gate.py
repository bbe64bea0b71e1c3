"""What both carriers do around the bytes: let in, watch, write down.

The contract of a carrier (the same tests hold for each):

1. the Origin is this site's, or the ticket came from an API token and there is none;
2. the ticket is redeemed, by the browser that asked for it, the target opened, the session noted;
3. bytes flow, of a viewer only what ``rfb.ClientFilter`` lets pass;
4. it ends when either side closes, when access is revoked (within a second), when it is idle for
   too long, or when the absolute limit has passed; the reason is noted and told by the close code.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.http.cookie import parse_cookie
from django.utils import timezone

from accounts.errors import DomainError, Forbidden
from jobs import origins
from vms.consoles import control, recorder, recordings, sessions, targets, tickets
from vms.consoles import hub as screens
from vms.consoles.serial import hub
from vms.consoles.serial.viewer import Viewer
from vms.models import VM, ConsoleSession

ABSOLUTE_LIMIT_S = 12 * 3600
SERIAL_LOG = "serial/log"  # the last words of a path
# Whose ticket it takes, where that is not the path's own word.
TICKET_KINDS = {SERIAL_LOG: "serial", "view": "vnc"}

# WebSocket close codes (4000-4999 are for applications, RFC 6455) that console.js knows.
CLOSE_CODES = {
    "stopped": 4410,  # the machine closed its display
    "revoked": 4403,
    "signed_out": 4401,
    "deleted": 4404,
    "idle": 4408,
    "limit": 4409,
    "handed_over": 4411,  # somebody else has control now: ask for a new ticket
    "control_given": 4412,  # this viewer has control now: ask for a new ticket
    "protocol": 4400,
    "refused": 4403,
    "unavailable": 4503,
    "too_many": 4429,
    "client": 1000,
}


class NoTarget:
    """Of a download: there is nothing to be closed."""

    def close(self) -> None:
        return


@dataclass(kw_only=True)
class Console:
    """An open console: its grant, its target, and what has flowed."""

    grant: tickets.Grant
    target: targets.Target | Viewer | NoTarget
    session: ConsoleSession
    bytes_in: int = 0  # from the client
    bytes_out: int = 0  # to the client
    active_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)


def secret_of(protocols: list[str]) -> str:
    for protocol in protocols:
        if protocol.startswith(tickets.PREFIX):
            return protocol[len(tickets.PREFIX) :]
    raise Forbidden("console.ticket")


def _redeem(secret: str, kind: str, origin: str, host: str, cookie: str) -> tickets.Grant:
    grant = tickets.redeem(secret, kind=kind)
    if grant.session_key and not _is_of(grant.session_key, cookie):
        raise Forbidden("console.ticket")  # of another browser than asked for it
    from_browser = bool(grant.session_key) or bool(origin)
    if from_browser and not origins.is_ours(origin, host):
        raise Forbidden("console.origin")
    return grant


def _is_of(session_key: str, cookie: str) -> bool:
    sent = parse_cookie(cookie).get(settings.SESSION_COOKIE_NAME, "")
    return secrets.compare_digest(sent.encode(), session_key.encode())


async def open_console(
    *, secret: str, kind: str, origin: str, host: str, cookie: str, address: str, carrier: str
) -> Console:
    """Redeem, open, note. ``origin``, ``host`` and ``cookie`` are the client's headers.
    DomainError says why not."""
    ticket_kind = TICKET_KINDS.get(kind, kind)
    grant = await database_sync_to_async(_redeem)(secret, ticket_kind, origin, host, cookie)
    target = await _open_target(grant, kind, carrier)
    try:
        session = await database_sync_to_async(sessions.open_session)(
            grant, carrier=carrier, address=address
        )
    except BaseException:
        target.close()
        raise
    if kind in recordings.EXTENSIONS:
        by_rule = await database_sync_to_async(recordings.start_by_rule)(grant.vm, kind)
        if by_rule is not None:
            recorder.begin_here(by_rule.pk)
    return Console(grant=grant, target=target, session=session)


async def _open_target(
    grant: tickets.Grant, kind: str, carrier: str
) -> targets.Target | Viewer | NoTarget:
    """In the site's process those who view share one connection; who has control, and whom another
    process carries, has one of their own."""
    if kind == SERIAL_LOG:
        return NoTarget()
    if kind == "serial":
        return hub.of(grant.vm.uuid).join(grant.mode)
    if grant.mode == "view" and carrier == "asgi":
        return await screens.open_view(grant.vm)
    return await targets.open_vnc(grant.vm)


async def close_console(console: Console, reason: str) -> None:
    console.target.close()
    await database_sync_to_async(sessions.close_session)(
        console.session,
        reason=reason,
        bytes_in=console.bytes_in,
        bytes_out=console.bytes_out,
    )
    if console.grant.mode == "control":
        # Pages that show who has control hear when it has lapsed, too.
        later = control.LAPSE.total_seconds() + 1
        asyncio.get_running_loop().call_later(later, _nudge, console.grant.vm)


def _nudge(vm: VM) -> None:
    told = asyncio.ensure_future(database_sync_to_async(sessions.nudge)(vm))
    _nudges.add(told)
    told.add_done_callback(_nudges.discard)


_nudges: set[asyncio.Future[None]] = set()  # the loop itself keeps only weak references


def reason_of(error: DomainError) -> str:
    if error.code == "console.held":
        return "handed_over"
    return {429: "too_many", 503: "unavailable"}.get(error.status, "refused")


async def watch(console: Console) -> str:
    """Returns the reason when this console must end; runs beside the pumps."""
    told = asyncio.ensure_future(_told_to_end(console))
    try:
        while True:
            done, _ = await asyncio.wait({told}, timeout=_until_recheck(console.session))
            if done:
                return told.result()
            now = time.monotonic()
            if now - console.active_at > settings.CONSOLE_IDLE_TIMEOUT_S:
                return "idle"
            if now - console.began_at > ABSOLUTE_LIMIT_S:
                return "limit"
            reason = await database_sync_to_async(tickets.why_ended)(console.grant)
            if reason and not await _goes_on(console, reason):
                return reason
            await database_sync_to_async(sessions.touch)(
                console.session, bytes_in=console.bytes_in, bytes_out=console.bytes_out
            )
    finally:
        told.cancel()


def _until_recheck(session: ConsoleSession) -> float:
    """Seconds; who is here by an invite is asked for again as it ends."""
    if session.invite is None:
        return sessions.RECHECK_S
    left = (session.invite.expires_at - timezone.now()).total_seconds()
    # Past its end another invite holds: then as for everybody.
    return min(left + 0.05, sessions.RECHECK_S) if left > 0 else sessions.RECHECK_S


async def _told_to_end(console: Console) -> str:
    """Waits in this console's groups for a message that ends it. Without Redis: for ever."""
    layer = get_channel_layer()
    if layer is None:
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")
    grant = console.grant
    groups = [sessions.vm_group(grant.vm.uuid), sessions.user_group(grant.user.pk)]
    if grant.session_key:
        groups.append(sessions.session_group(grant.session_key))
    channel = ""
    joined: list[str] = []
    try:
        while True:
            try:
                if not channel:
                    channel = await layer.new_channel()
                for group in groups[len(joined) :]:
                    await layer.group_add(group, channel)
                    joined.append(group)
                message = await layer.receive(channel)
            except OSError:  # Redis is away: the re-check stands in until it is back
                await asyncio.sleep(2)
                channel, joined = "", []
                continue
            reason = await _reason_in(message, console.grant)
            if reason and not await _goes_on(console, reason):
                return reason
    finally:
        for group in joined:
            with contextlib.suppress(OSError):
                await layer.group_discard(group, channel)


async def _goes_on(console: Console, reason: str) -> bool:
    """A serial line is the same for who types and who looks: when control moves, its consoles
    change their mode and stay open."""
    mode = {"handed_over": "view", "control_given": "control"}.get(reason)
    if mode is None or not isinstance(console.target, Viewer):
        return False
    if mode == "view":
        console.target.set_mode(mode)  # at once: from now on nothing of theirs is let through
    grant = replace(console.grant, mode=mode)
    if not await database_sync_to_async(tickets.still_allowed)(grant):
        return False
    console.grant = grant
    console.target.set_mode(mode)
    await database_sync_to_async(sessions.change_mode)(console.session, mode)
    return True


async def _reason_in(message: dict[str, Any], grant: tickets.Grant) -> str:
    """Why this message ends the console of ``grant``; ``""``: it does not."""
    if message.get("type") == "console.mode":
        has_it = message.get("holder") == grant.user.pk
        if grant.mode == "control":
            return "" if has_it else "handed_over"
        return "control_given" if has_it else ""
    if message.get("ask"):
        return await database_sync_to_async(tickets.why_ended)(grant)
    return str(message.get("reason", "revoked"))
