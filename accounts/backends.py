"""Who a name, or an address, and a password belong to."""

from __future__ import annotations

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from accounts import directory_people
from accounts.errors import DomainError
from accounts.models import User

_REFUSAL = "_kvmweb_directory_refusal"


class NameOrAddress(AuthenticationBackend):  # type: ignore[misc]
    """allauth's, which hashes once more for an address that exists: it is given both as the name
    and as the address, and how long the answer takes would tell who has an account."""

    def authenticate(self, request: HttpRequest | None = None, **credentials: Any) -> User | None:
        if credentials.get("email") == credentials.get("username"):
            credentials.pop("email", None)
        found: User | None = super().authenticate(request, **credentials)
        return found


class LdapDirectory(ModelBackend):
    """Asked last, so that a local account is never in want of a directory."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        name = username or credentials.get("email")
        if not name or not password:
            return None
        try:
            return directory_people.sign_in(name, password)
        except DomainError as exc:
            if request is not None:
                setattr(request, _REFUSAL, exc)
            raise PermissionDenied from exc


def refusal(request: HttpRequest) -> DomainError | None:
    """Why a directory's person was not let in, where there is more to say than "wrong"."""
    found: DomainError | None = getattr(request, _REFUSAL, None)
    return found
