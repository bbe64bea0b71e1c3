"""Who a name, or an address, and a password belong to."""

from __future__ import annotations

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.http import HttpRequest

from accounts.models import User


class NameOrAddress(AuthenticationBackend):  # type: ignore[misc]
    """allauth's, which hashes once more for an address that exists: it is given both as the name
    and as the address, and how long the answer takes would tell who has an account."""

    def authenticate(self, request: HttpRequest | None = None, **credentials: Any) -> User | None:
        if credentials.get("email") == credentials.get("username"):
            credentials.pop("email", None)
        found: User | None = super().authenticate(request, **credentials)
        return found
