"""How allauth signs people in here."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from cryptography.fernet import Fernet, MultiFernet
from django import forms
from django.conf import settings
from django.http import HttpRequest
from django.utils.encoding import force_bytes

from accounts import audit, backends, directory, messages, services
from accounts.models import User


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up is closed unless the admin opens it; a new person gets their personal team."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return bool(settings.OPEN_SIGNUP)

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        saved: User = super().save_user(request, user, form, commit=commit)
        if commit:
            services.complete_new_user(saved)
            audit.record(saved, "user.sign_up", saved)
        return saved

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:  # noqa: ARG002
        why = backends.refusal(request)
        if why is not None:
            raise forms.ValidationError(messages.text(why.code, why.params))

    def set_password(self, user: User, password: str) -> None:
        services.require_own_password(user)
        super().set_password(user, password)

    def get_client_ip(self, request: HttpRequest) -> str:
        """The address that throttling counts: behind trusted proxies only."""
        return audit.client_address(request) or "unknown"


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Sign-in by providers of ``KVMWEB_OIDC_FILE``; their groups make teams and roles."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:  # noqa: ARG002
        return bool(_provider(sociallogin).get("sign_up", True))

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        saved: User = super().save_user(request, sociallogin, form)
        services.complete_new_user(saved)
        audit.record(saved, "user.sign_up", saved, after={"by": sociallogin.account.provider})
        _apply_groups(saved, sociallogin)
        return saved

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:  # noqa: ARG002
        if sociallogin.is_existing and sociallogin.user.is_active:
            _apply_groups(sociallogin.user, sociallogin)


def _provider(sociallogin: Any) -> dict[str, Any]:
    known = {one["id"]: one for one in settings.OIDC}
    return known.get(sociallogin.account.provider, {})


def _apply_groups(user: User, sociallogin: Any) -> None:
    provider = _provider(sociallogin)
    claims = sociallogin.account.extra_data
    groups = directory.groups_of(claims, provider.get("groups_claim", "groups"))
    directory.apply(user, provider, groups)


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Keeps the secrets of second factors encrypted: a copy of the database is no key."""

    def encrypt(self, text: str) -> str:
        return _box().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _box().decrypt(encrypted_text.encode()).decode()


def _box() -> MultiFernet:
    """By the site's key; by its earlier ones what was written under them."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    material = (hashlib.sha256(b"kvmweb.accounts.mfa:" + force_bytes(key)).digest() for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(one)) for one in material])
