"""Where a person is signed in, and how they end it from elsewhere.

A row is made at the sign-in. Its session may get another key (a changed password does that), so the
session itself remembers its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest

from accounts import audit, sessions
from accounts.errors import NotFound
from accounts.models import SignIn, User
from accounts.revocations import Revocation, announce_on_commit

REMEMBERED = "kvmweb_sign_in"
_AGENT_MAX = 200
_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class SignInView:
    row: SignIn
    is_this: bool


def note(request: HttpRequest, user: User) -> None:
    """A sign-in has succeeded."""
    if not request.session.session_key:
        return
    row = SignIn.objects.create(
        user=user,
        session_key=request.session.session_key,
        address=audit.client_address(request),
        agent=request.headers.get("User-Agent", "")[:_AGENT_MAX],
    )
    request.session[REMEMBERED] = row.pk


def follow_key(request: HttpRequest) -> None:
    """The session goes on under another key."""
    row_id = request.session.get(REMEMBERED)
    if row_id is not None:
        SignIn.objects.filter(pk=row_id).update(session_key=request.session.session_key or "")


def live(user: User, *, session_key: str) -> list[SignInView]:
    """Those that still work, the newest first."""
    rows = SignIn.objects.filter(user=user).order_by("-id")[:_SHOWN]
    return [
        SignInView(row=row, is_this=row.session_key == session_key)
        for row in rows
        if sessions.is_live(row.session_key, user)
    ]


def end(user: User, sign_in_id: int) -> None:
    """Sign out there; live pages and consoles of that session end with it."""
    row = SignIn.objects.filter(user=user, pk=sign_in_id).first()
    if row is None:
        raise NotFound
    _end(user, [row])


def end_others(user: User, *, session_key: str) -> int:
    """Sign out everywhere else; how many that were."""
    rows = list(SignIn.objects.filter(user=user).exclude(session_key=session_key))
    _end(user, rows)
    return len(rows)


def forget_ended() -> None:
    """Rows whose session is gone."""
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    keys = store.get_model_class().objects.values("session_key")
    SignIn.objects.exclude(session_key__in=keys).delete()


def _end(user: User, rows: list[SignIn]) -> None:
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    with transaction.atomic():
        for row in rows:
            store(row.session_key).delete()
            announce_on_commit(
                Revocation(user_id=user.pk, session_key=row.session_key, reason="signed_out")
            )
        SignIn.objects.filter(pk__in=[row.pk for row in rows]).delete()
        audit.record(user, "user.end_sessions", user, after={"sessions": len(rows)})
