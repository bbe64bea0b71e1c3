"""What somebody asked with, for what goes on longer than the request: does it still hold?

A download of an hour outlives the look at its beginning. What was let in by a token ends with the
token, what was let in by a session ends with the session.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest

from accounts import apiauth, sessions, tokens
from accounts.models import User


@dataclass(frozen=True, kw_only=True)
class Credential:
    """``signed_in_id``: whose session it is; not ``person_id`` while an admin looks as somebody."""

    person_id: int
    session_key: str = ""
    signed_in_id: int = 0
    token_id: int | None = None


def of(request: HttpRequest) -> Credential | None:
    """None: nobody asks."""
    identity = apiauth.identify(request)
    if identity is None:
        return None
    if identity.token is not None:
        return Credential(person_id=identity.user.pk, token_id=identity.token.pk)
    return Credential(
        person_id=identity.user.pk,
        session_key=identity.session_key,
        signed_in_id=int(request.session[SESSION_KEY]),
    )


def person(credential: Credential) -> User | None:
    """Whom it lets in now, as it did at first; None: nobody any more."""
    user = User.objects.filter(pk=credential.person_id, is_active=True).first()
    if user is None:
        return None
    if credential.token_id is not None:
        token = tokens.find_live(credential.token_id)
        if token is None:
            return None
        user.acts_as_member = "admin" not in token.scopes
    if credential.session_key:
        signed_in = User.objects.filter(pk=credential.signed_in_id, is_active=True).first()
        if signed_in is None or not sessions.is_live(credential.session_key, signed_in):
            return None
    return user
