"""Console tickets: random, stored hashed, single use, seconds to live, bound to user and machine.

A ticket travels in the WebSocket's subprotocol list (``ticket.<secret>``), never in the URL:
servers log URLs.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from accounts import credentials, policy
from accounts.credentials import Credential
from accounts.errors import Conflict, Forbidden, Invalid, TooMany
from accounts.policy import Action
from vms.consoles import control, targets
from vms.models import VM, ConsoleTicket

if TYPE_CHECKING:
    from django.http import HttpRequest

    from accounts.models import ApiToken, User

SUBPROTOCOL = "binary"
PREFIX = "ticket."
KINDS = ("vnc", "serial")
MODES = {"view": Action.CONSOLE_VIEW, "control": Action.CONSOLE_CONTROL}
ISSUES_PER_MINUTE = 60
HAS_A_SCREEN = (VM.Observed.RUNNING, VM.Observed.PAUSED)


@dataclass(frozen=True, kw_only=True)
class IssuedTicket:
    secret: str
    kind: str
    mode: str
    expires_at: datetime

    @property
    def protocols(self) -> list[str]:
        return [SUBPROTOCOL, PREFIX + self.secret]

    @property
    def path(self) -> str:
        """Below the site's address. Who views shares a connection that the site's own process has,
        whichever carrier takes those with control."""
        beside = settings.CONSOLE_CARRIER == "websockify"
        shared = beside and self.kind == "vnc" and self.mode == "view"
        return f"ws/console/{'view' if shared else self.kind}"

    def answer(self, request: HttpRequest) -> dict[str, Any]:
        """What the API tells: where to connect, with what, and until when."""
        scheme = "wss" if request.is_secure() else "ws"
        return {
            "url": f"{scheme}://{request.get_host()}{reverse('dashboard')}{self.path}",
            "protocols": self.protocols,
            "kind": self.kind,
            "mode": self.mode,
            "expires_at": self.expires_at,
        }


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a redeemed ticket allows, and to whom it is bound."""

    user: User
    vm: VM
    kind: str
    mode: str
    session_key: str
    api_token_id: int | None


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def best_mode(user: User, vm: VM) -> str:
    """``control`` where the person may and nobody else has it, else ``view``. NotFound where they
    may see nothing."""
    policy.require(user, Action.CONSOLE_VIEW, vm)
    if not policy.can(user, Action.CONSOLE_CONTROL, vm):
        return "view"
    holder = control.holder(vm)
    mine = holder is not None and holder.pk == user.pk
    return "control" if mine or control.is_free(vm) else "view"


def issue(
    *,
    user: User,
    vm: VM,
    kind: str = "vnc",
    mode: str = "",
    take: bool = False,
    session_key: str = "",
    api_token: ApiToken | None = None,
) -> IssuedTicket:
    """A ticket after the one door has said yes. Invalid, NotFound, Forbidden, Conflict, TooMany,
    Unavailable (a host whose screens cannot be reached at all).

    Without ``mode``: ``best_mode``. A ticket with control takes it where it is free; where another
    has it that is Conflict ``console.held``, unless ``take`` is asked by who may take it back.
    """
    if kind not in KINDS:
        raise Invalid("console.kind", fields={"kind": "console.kind"}, kinds=", ".join(KINDS))
    wished = mode
    mode = mode or ("control" if take else best_mode(user, vm))
    if mode not in MODES:
        raise Invalid("console.mode", fields={"mode": "console.mode"})
    policy.require(user, MODES[mode], vm)
    # A serial line also tells what was said before the machine stopped or crashed.
    if kind == "vnc" and vm.observed not in HAS_A_SCREEN:
        raise Conflict("console.not_running", name=vm.name)
    if kind == "vnc":
        targets.check(vm.host)
    _throttle(user)
    if mode == "control":
        try:
            with transaction.atomic():
                control.claim(vm, user, take=take)
        except Conflict:
            if wished or take:
                raise
            mode = "view"  # somebody was quicker
    secret = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(seconds=settings.CONSOLE_TICKET_TTL_S)
    ConsoleTicket.objects.create(
        token_hash=digest(secret),
        user=user,
        session_key=session_key,
        api_token=api_token,
        vm=vm,
        kind=kind,
        mode=mode,
        expires_at=expires_at,
    )
    return IssuedTicket(secret=secret, kind=kind, mode=mode, expires_at=expires_at)


def redeem(secret: str, *, kind: str) -> Grant:
    """Use a ticket up by one conditional UPDATE, and ask every question again.

    Forbidden: unknown, used, late, of another kind, or its session or token has ended.
    NotFound or Forbidden of the policy when access was taken away since.
    """
    now = timezone.now()
    token_hash = digest(secret)
    used = ConsoleTicket.objects.filter(
        token_hash=token_hash, kind=kind, redeemed_at__isnull=True, expires_at__gt=now
    ).update(redeemed_at=now)
    if not used:
        raise Forbidden("console.ticket")
    ticket = ConsoleTicket.objects.select_related("user", "vm__host", "api_token").get(
        token_hash=token_hash
    )
    grant = Grant(
        user=ticket.user,
        vm=ticket.vm,
        kind=ticket.kind,
        mode=ticket.mode,
        session_key=ticket.session_key,
        api_token_id=ticket.api_token_id,
    )
    if not still_allowed(grant):
        raise Forbidden("console.ticket")
    if grant.mode == "control":
        with transaction.atomic():
            control.claim(grant.vm, grant.user)  # Conflict: it has moved since
    return grant


def still_allowed(grant: Grant) -> bool:
    """Whether this person may have this console now; asked at connect and while it is open."""
    user = credentials.person(
        Credential(
            person_id=grant.user.pk,
            session_key=grant.session_key,
            signed_in_id=grant.user.pk,
            token_id=grant.api_token_id,
        )
    )
    vm = VM.objects.alive().filter(pk=grant.vm.pk).first()
    return user is not None and vm is not None and policy.can(user, MODES[grant.mode], vm)


def why_ended(grant: Grant) -> str:
    """The reason why this console must end now, ``""`` when it may go on."""
    if not still_allowed(grant):
        return "revoked"
    if grant.mode == "control":
        holder = control.holder(grant.vm)
        if holder is None or holder.pk != grant.user.pk:
            return "handed_over"
    return ""


def _throttle(user: User) -> None:
    key = f"console-tickets:{user.pk}:{int(timezone.now().timestamp()) // 60}"
    cache.add(key, 0, timeout=120)
    if cache.incr(key) > ISSUES_PER_MINUTE:
        raise TooMany("console.too_many", per_minute=ISSUES_PER_MINUTE)


def delete_old() -> None:
    """Remove tickets that nobody can use any more; called by the reconciler."""
    ConsoleTicket.objects.filter(expires_at__lt=timezone.now() - timedelta(hours=1)).delete()
