"""API tokens: random, stored as their SHA-256, scoped and expiring.

A plain hash is enough for 256 random bits; password hashing would only make every request slow.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.errors import Forbidden, Invalid, NotFound
from accounts.models import ApiToken, User
from accounts.revocations import Revocation, announce_on_commit

SCOPES = ("read", "write", "admin")
PREFIX = "kvmw_"
MAX_LIVE_TOKENS = 50
_SHOWN_CHARACTERS = 12  # of the secret, to tell tokens apart in a list
_LAST_USED_EVERY = timedelta(minutes=1)  # not a write for every request
_NAME_MAX = 64


def issue(
    user: User, name: str, scopes: Iterable[str], expires_at: datetime | None
) -> tuple[ApiToken, str]:
    """A new token and its secret, which exists only in this answer."""
    chosen = [scope for scope in SCOPES if scope in set(scopes)]
    name = name.strip()
    _validate(user, name, set(scopes), expires_at)
    secret = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            user=user,
            name=name,
            prefix=secret[:_SHOWN_CHARACTERS],
            token_hash=_hash(secret),
            scopes=chosen,
            expires_at=expires_at,
        )
        audit.record(user, "token.issue", token, after={"scopes": chosen, "expires": expires_at})
    return token, secret


def authenticate(secret: str) -> ApiToken | None:
    """The live token with this secret, of an active user; notes its use once a minute."""
    if not secret.startswith(PREFIX):
        return None
    token = (
        ApiToken.objects.select_related("user")
        .filter(_live(), token_hash=_hash(secret), user__is_active=True)
        .first()
    )
    if token is None:
        return None
    now = timezone.now()
    stale = now - _LAST_USED_EVERY
    if token.last_used_at is None or token.last_used_at < stale:
        ApiToken.objects.filter(
            Q(last_used_at__isnull=True) | Q(last_used_at__lt=stale), pk=token.pk
        ).update(last_used_at=now)
    return token


def live_tokens(user: User) -> QuerySet[ApiToken, ApiToken]:
    return ApiToken.objects.filter(_live(), user=user)


def find_live(token_id: int) -> ApiToken | None:
    return ApiToken.objects.filter(_live(), pk=token_id).first()


def revoke(user: User, token_id: int) -> None:
    """End one of the user's tokens; what it opened (consoles) ends with it."""
    with transaction.atomic():
        token = ApiToken.objects.filter(user=user, pk=token_id, revoked_at__isnull=True).first()
        if token is None:
            raise NotFound
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])
        audit.record(user, "token.revoke", token)
        announce_on_commit(Revocation(user_id=user.pk, token_id=token.pk, reason="token_revoked"))


def _validate(user: User, name: str, scopes: set[str], expires_at: datetime | None) -> None:
    if not 1 <= len(name) <= _NAME_MAX or not name.isprintable():
        raise Invalid("token.name_invalid", fields={"name": "token.name_invalid"})
    if not scopes or not scopes <= set(SCOPES):
        raise Invalid("token.scopes_invalid", fields={"scopes": "token.scopes_invalid"})
    if "admin" in scopes and not user.is_admin:
        raise Forbidden("token.admin_scope")
    if expires_at is not None and expires_at <= timezone.now():
        raise Invalid("token.expiry_past", fields={"expires_at": "token.expiry_past"})
    if ApiToken.objects.filter(_live(), user=user).count() >= MAX_LIVE_TOKENS:
        raise Invalid("token.too_many", maximum=MAX_LIVE_TOKENS)


def _live() -> Q:
    return Q(revoked_at__isnull=True) & (
        Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
