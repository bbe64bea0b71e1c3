"""Sign-ins and sign-outs, as Django and allauth tell them, to the audit record.

The only signals in use: these events are raised by code that is not ours.
"""

from __future__ import annotations

from typing import Any

from allauth.account.signals import password_changed, password_reset, password_set
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import (
    authentication_failed,
    authenticator_added,
    authenticator_removed,
    authenticator_reset,
)
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from accounts import audit, sign_ins
from accounts.models import User
from accounts.revocations import Revocation, announce_on_commit


def connect() -> None:
    user_logged_in.connect(_signed_in, dispatch_uid="accounts.signed_in")
    user_logged_out.connect(_signed_out, dispatch_uid="accounts.signed_out")
    user_login_failed.connect(_sign_in_failed, dispatch_uid="accounts.sign_in_failed")
    for signal in (password_changed, password_reset, password_set):
        signal.connect(_password_changed, dispatch_uid="accounts.password_changed")
    authenticator_added.connect(_second_factor_added, dispatch_uid="accounts.factor_added")
    authenticator_removed.connect(_second_factor_removed, dispatch_uid="accounts.factor_removed")
    authenticator_reset.connect(_second_factor_reset, dispatch_uid="accounts.factor_reset")
    authentication_failed.connect(_second_factor_failed, dispatch_uid="accounts.factor_failed")


def _signed_in(*, request: HttpRequest, user: User, **_kwargs: Any) -> None:
    audit.record(user, "user.sign_in", user)
    sign_ins.note(request, user)


def _signed_out(*, request: HttpRequest, user: User | None, **_kwargs: Any) -> None:
    if user is None:
        return
    audit.record(user, "user.sign_out", user)
    key = request.session.session_key or ""
    # Dead before anybody is told: a page that hears of it reloads at once, and that reload ends
    # the very request we are in. Django's own flush comes only after this signal.
    request.session.flush()
    announce_on_commit(Revocation(user_id=user.pk, session_key=key, reason="signed_out"))


def _sign_in_failed(*, credentials: dict[str, Any], **_kwargs: Any) -> None:
    """Names only people who exist: what was typed may be a password in the wrong field."""
    name = str(credentials.get("username") or credentials.get("email") or "")
    user = User.objects.filter(username=name).first() or (
        User.objects.filter(email__iexact=name).first() if "@" in name else None
    )
    audit.record(None, "user.sign_in_failed", user)


def _password_changed(*, request: HttpRequest, user: User, **_kwargs: Any) -> None:
    """Sessions end by themselves, their hash differs now; what they hold open must be told."""
    audit.record(user, "user.change_password", user)
    sign_ins.follow_key(request)
    announce_on_commit(Revocation(user_id=user.pk, reason="password_changed"))


def _second_factor_added(*, user: User, authenticator: Authenticator, **_kwargs: Any) -> None:
    audit.record(user, "user.add_second_factor", user, after=_kind(authenticator))


def _second_factor_removed(*, user: User, authenticator: Authenticator, **_kwargs: Any) -> None:
    audit.record(user, "user.remove_second_factor", user, before=_kind(authenticator))


def _second_factor_reset(*, user: User, authenticator: Authenticator, **_kwargs: Any) -> None:
    audit.record(user, "user.reset_second_factor", user, after=_kind(authenticator))


def _second_factor_failed(*, user: User, **_kwargs: Any) -> None:
    """The password was right before it."""
    audit.record(None, "user.second_factor_failed", user)


def _kind(authenticator: Authenticator) -> dict[str, str]:
    return {"kind": str(authenticator.type)}
