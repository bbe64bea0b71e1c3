"""Every view declares who may open it; a test walks the URLs and refuses one that does not.

``signed_in`` and ``admin_only`` guard; ``public`` only declares. What a person may do with an
object is ``accounts.policy``'s question, asked inside the view.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.http import urlencode

from accounts import policy
from accounts.models import User

View = TypeVar("View", bound=Callable[..., HttpResponseBase])

PUBLIC, SIGNED_IN, ADMIN = "public", "signed_in", "admin"
ATTRIBUTE = "kvmweb_access"


class SignedInRequest(HttpRequest):
    """For annotations: what a view behind ``signed_in`` gets."""

    user: User


def public(view: View) -> View:
    """Anybody may open it."""
    setattr(view, ATTRIBUTE, PUBLIC)
    return view


def signed_in(view: View) -> View:
    """People who are signed in; others are led to the sign-in page and back."""

    @functools.wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return to_sign_in(request)
        return view(request, *args, **kwargs)

    setattr(wrapper, ATTRIBUTE, SIGNED_IN)
    return cast("View", wrapper)


def admin_only(view: View) -> View:
    """Admins of the site; the refusal of others is audited."""

    @functools.wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not isinstance(request.user, User):
            return to_sign_in(request)
        policy.require(request.user, policy.Action.SITE_ADMIN)
        return view(request, *args, **kwargs)

    setattr(wrapper, ATTRIBUTE, ADMIN)
    return cast("View", wrapper)


def to_sign_in(request: HttpRequest) -> HttpResponse:
    """A page is redirected. A fragment is not: its page would swap the sign-in form into itself,
    so the answer is 401 and names where the browser should go."""
    if request.headers.get("HX-Request") != "true":
        return redirect_to_login(request.get_full_path())
    response = HttpResponse(status=401)
    came_from = getattr(request, "htmx", None) and request.htmx.current_url_abs_path  # type: ignore[attr-defined]
    query = f"?{urlencode({'next': came_from})}" if came_from else ""
    response["HX-Redirect"] = resolve_url(settings.LOGIN_URL) + query
    return response
