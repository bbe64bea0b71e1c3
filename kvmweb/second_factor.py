"""Admins without a second factor are led to set one up, where the site wants it of them."""

from __future__ import annotations

from collections.abc import Callable

from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from accounts.errors import Forbidden
from accounts.models import User
from kvmweb import error_pages

GetResponse = Callable[[HttpRequest], HttpResponse]
# Where they set it up, leave, or choose a language; and what needs no sign-in at all.
_OPEN = ("accounts/", "preferences/", "i18n/", "healthz", "readyz", "metrics")


class AdminSecondFactorMiddleware:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not settings.ADMIN_MFA_REQUIRED or not _lacks_it(request):
            return self.get_response(request)
        is_page = request.method in ("GET", "HEAD") and not error_pages.wants_problem(request)
        if is_page and not request.headers.get("HX-Request"):
            return redirect("mfa_index")
        return error_pages.of_error(request, Forbidden("mfa.required"))


def _lacks_it(request: HttpRequest) -> bool:
    """By session only: a token was made by somebody who was let in."""
    if request.headers.get("Authorization") or request.path_info.lstrip("/").startswith(_OPEN):
        return False
    user = request.user
    return isinstance(user, User) and user.is_admin and not is_mfa_enabled(user)
