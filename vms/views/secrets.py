"""A first password, shown once on the page that follows its choice.

It is kept nowhere on the server: it travels encrypted in a short-lived cookie of the browser that
chose it, for the address of that machine or batch alone, and the page that shows it deletes the
cookie.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from vms.models import VM, Batch

_LIFE_S = 15 * 60
_NAME = "kvmweb_secret"


def keep(response: HttpResponse, subject: VM | Batch, password: str) -> None:
    response.set_cookie(
        _NAME,
        _box(subject).encrypt(password.encode()).decode(),
        max_age=_LIFE_S,
        path=_page(subject),
        httponly=True,
        samesite="Strict",
        secure=settings.HTTPS,
    )


def read(request: HttpRequest, subject: VM | Batch) -> str:
    token = request.COOKIES.get(_NAME, "")
    try:
        return _box(subject).decrypt(token.encode(), ttl=_LIFE_S).decode() if token else ""
    except InvalidToken:
        return ""


def forget(response: HttpResponse, subject: VM | Batch) -> None:
    response.delete_cookie(_NAME, path=_page(subject), samesite="Strict")


def _page(subject: VM | Batch) -> str:
    return reverse("vm_batch" if isinstance(subject, Batch) else "vm_detail", args=[subject.uuid])


def _box(subject: VM | Batch) -> Fernet:
    """The key is bound to the site's secret and to what it opens."""
    material = f"kvmweb.first-password:{subject.uuid}:{settings.SECRET_KEY}".encode()
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(material).digest()))
