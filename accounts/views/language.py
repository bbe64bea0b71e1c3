"""``POST /i18n/setlang``: Django's view, which also keeps the choice of a person signed in."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_POST
from django.views.i18n import set_language as set_language_cookie

from accounts import services
from accounts.access import public
from accounts.models import User


@public
@require_POST
def set_language(request: HttpRequest) -> HttpResponseBase:
    language = request.POST.get("language", "")
    if isinstance(request.user, User) and language in dict(settings.LANGUAGES):
        services.set_preferences(user=request.user, language=language)
    return set_language_cookie(request)
