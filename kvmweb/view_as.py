"""An admin sees the site as a person sees it: read-only, noted, and until they end it.

Enforced here, whatever a view does: only GET and HEAD pass, and all that one writes is rolled back.
Pages of the person's own secrets (sign-in, second factors, Django's tables) stay closed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import cast

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts import audit
from accounts.errors import Forbidden
from accounts.models import User
from accounts.views.view_as import KEY
from kvmweb import error_pages

LIVES_S = 3600
_AGAIN_S = 600
_SAFE = ("GET", "HEAD")
_CLOSED = ("accounts/", "django-admin/")

GetResponse = Callable[[HttpRequest], HttpResponse]


class ViewAsMiddleware:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        person = None if request.headers.get("Authorization") else _person(request)
        if person is None:
            return self.get_response(request)
        admin = cast("User", request.user)  # _person has looked
        request.viewing_as = person  # type: ignore[attr-defined]
        if request.path == reverse("view_as_end"):
            return self.get_response(request)
        if request.method not in _SAFE or _is_closed(request):
            return error_pages.of_error(request, Forbidden("view_as.read_only"))
        request.user = person
        with transaction.atomic():
            response = self.get_response(request)
            transaction.set_rollback(True)
        if (current := audit.context.get()) is not None:
            current.refusals.clear()  # it was not the person who was refused
        if _is_news(request):
            audit.record(admin, "user.view_as_page", person, after={"path": request.path})
        return response


def _person(request: HttpRequest) -> User | None:
    """Whom the admin of this session looks as; asked anew each time."""
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    said = request.session.get(KEY)
    if not said or not isinstance(request.user, User) or not request.user.is_admin:
        return None
    if time.time() - said["at"] > LIVES_S:
        return None
    return User.objects.filter(pk=said["id"], is_active=True, is_staff=False).first()


def _is_news(request: HttpRequest) -> bool:
    """Pages and downloads each time; what a page fetches again and again, now and then. (The
    browser says which it is, and whoever sits at it may say anything.)"""
    if not request.headers.get("HX-Request") and "part" not in request.GET:
        return True
    seen = hashlib.sha256(f"{request.session.session_key} {request.path}".encode()).hexdigest()
    return cache.add(f"view-as:{seen}", 1, timeout=_AGAIN_S)


def _is_closed(request: HttpRequest) -> bool:
    path = request.path_info.lstrip("/")
    return path.startswith(_CLOSED)
