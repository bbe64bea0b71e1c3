"""A first password, shown once on the page that follows its choice.

It is kept nowhere on the server: it travels encrypted in a short-lived cookie of the browser that
chose it, for that machine's address alone, and the page that shows it deletes the cookie.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from vms.models import VM

_LIFE_S = 15 * 60
_NAME = "kvmweb_secret"


def keep(response: HttpResponse, vm: VM, password: str) -> None:
    response.set_cookie(
        _NAME,
        _box(vm).encrypt(password.encode()).decode(),
        max_age=_LIFE_S,
        path=reverse("vm_detail", args=[vm.uuid]),
        httponly=True,
        samesite="Strict",
        secure=settings.HTTPS,
    )


def read(request: HttpRequest, vm: VM) -> str:
    token = request.COOKIES.get(_NAME, "")
    try:
        return _box(vm).decrypt(token.encode(), ttl=_LIFE_S).decode() if token else ""
    except InvalidToken:
        return ""


def forget(response: HttpResponse, vm: VM) -> None:
    response.delete_cookie(_NAME, path=reverse("vm_detail", args=[vm.uuid]), samesite="Strict")


def _box(vm: VM) -> Fernet:
    """The key is bound to the site's secret and to the machine."""
    material = f"kvmweb.first-password:{vm.uuid}:{settings.SECRET_KEY}".encode()
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(material).digest()))
