"""Language and theme, also of a person who is not signed in: they go into cookies then."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from accounts import services
from accounts.access import public
from accounts.models import User

THEME_COOKIE = "kvmweb_theme"
_YEAR_S = 365 * 24 * 3600


def theme_of(request: HttpRequest) -> str:
    """Settled on the server, so that a page never flashes in the wrong colours."""
    user = getattr(request, "user", None)
    theme = user.theme if isinstance(user, User) else request.COOKIES.get(THEME_COOKIE, "")
    return theme if theme in User.Theme.values else User.Theme.AUTO.value


@public
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Store ``theme`` and ``language`` as far as they are given, and go back."""
    theme, language = request.POST.get("theme"), request.POST.get("language")
    if isinstance(request.user, User):
        services.set_preferences(user=request.user, theme=theme, language=language)
    response = HttpResponseRedirect(_back_to(request))
    if theme in User.Theme.values:
        _set_cookie(response, THEME_COOKIE, str(theme))
    if language in dict(settings.LANGUAGES):
        _set_cookie(response, settings.LANGUAGE_COOKIE_NAME, str(language))
    return response


def _back_to(request: HttpRequest) -> str:
    goal = request.POST.get("next", "")
    if url_has_allowed_host_and_scheme(goal, {request.get_host()}, request.is_secure()):
        return goal
    return settings.FORCE_SCRIPT_NAME or "/"


def _set_cookie(response: HttpResponse, name: str, value: str) -> None:
    response.set_cookie(
        name, value, max_age=_YEAR_S, samesite="Lax", secure=settings.HTTPS, httponly=True
    )
