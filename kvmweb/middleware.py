"""What surrounds every request: its id, its language, its policy of content, its errors."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from allauth.core.exceptions import ImmediateHttpResponse, ReauthenticationRequired
from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    DisallowedHost,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.core.signals import got_request_exception
from django.db import DataError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from redis.exceptions import RedisError

from accounts import audit
from accounts.errors import DomainError
from accounts.models import User
from kvmweb import error_pages

logger = logging.getLogger(__name__)

GetResponse = Callable[[HttpRequest], HttpResponse]

_CSP = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src {connect}",
        "font-src 'self'",
        "form-action 'self'{providers}",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    ]
)
# The console reads and writes the clipboard and goes full screen; nothing else is used.
_PERMISSIONS = ", ".join(
    [
        "accelerometer=()",
        "camera=()",
        "clipboard-read=(self)",
        "clipboard-write=(self)",
        "display-capture=()",
        "fullscreen=(self)",
        "geolocation=()",
        "gyroscope=()",
        "magnetometer=()",
        "microphone=()",
        "midi=()",
        "payment=()",
        "usb=()",
    ]
)
# What the databases' drivers say of characters that they do not store (NUL, half a surrogate pair):
# somebody sent them, and nothing is broken.
_NO_TEXT = re.compile(r"NUL \(0x00\)|surrogates not allowed")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{8,36}")


class ContentSecurityPolicyMiddleware:
    """The policy of design section 9, on every answer that does not bring its own."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if "Content-Security-Policy" not in response:
            response["Content-Security-Policy"] = _CSP.format(
                connect=_connect(request), providers=_providers()
            )
        response.setdefault("Permissions-Policy", _PERMISSIONS)
        return response


def _providers() -> str:
    """Browsers hold a form to this policy also where its answer leads elsewhere: to the sign-in
    of a provider."""
    parts = (urlsplit(one["server_url"]) for one in settings.OIDC)
    return "".join(f" {part.scheme}://{part.netloc}" for part in parts)


def _connect(request: HttpRequest) -> str:
    """``'self'``, and our WebSockets by name for browsers in which it does not cover them."""
    try:
        host = request.get_host()
    except DisallowedHost:
        return "'self'"
    scheme = "wss" if request.is_secure() else "ws"
    return f"'self' {scheme}://{host}"


class RequestIdMiddleware:
    """Gives each request an id (a trusted proxy may bring one) and the audit its context."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        address = audit.client_address(request)
        request_id = self._brought(request) or uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined]
        with audit.request_context(request_id=request_id, address=address):
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response

    @staticmethod
    def _brought(request: HttpRequest) -> str:
        claimed = request.headers.get("X-Request-ID", "")
        behind_proxy = audit.is_trusted_proxy(request.META.get("REMOTE_ADDR", "") or "")
        return claimed if behind_proxy and _REQUEST_ID.fullmatch(claimed) else ""


class UserLocaleMiddleware:
    """The person's own language before the cookie, the cookie before the browser's wish."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        language = translation.get_language_from_request(request)
        # The API is asked by token: the session is not read for it, its header decides.
        if not request.headers.get("Authorization"):
            language = self._chosen(request) or language
        with translation.override(language):
            request.LANGUAGE_CODE = translation.get_language()
            response = self.get_response(request)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response

    @staticmethod
    def _chosen(request: HttpRequest) -> str:
        user = request.user
        language = user.language if isinstance(user, User) else ""
        return language if language in dict(settings.LANGUAGES) else ""


class DomainErrorMiddleware:
    """Makes of an exception in a view what its reader can use. See ``kvmweb.error_pages``."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        match exception:
            case DomainError():
                return error_pages.of_error(request, exception)
            case RequestDataTooBig():
                return error_pages.of_code(request, 413, "body_too_large")
            case Http404() | PermissionDenied() | BadRequest() | SuspiciousOperation():
                return None  # Django calls our handlers
            case ImmediateHttpResponse() | ReauthenticationRequired():
                return None  # allauth's middleware leads the person on
            case DataError() | ValueError() if _NO_TEXT.search(str(exception)):
                return error_pages.of_code(request, 400, "bad_request")
            case RedisError():
                logger.error("Redis: %s", exception)
                return error_pages.of_code(request, 503, "redis_unreachable")
            case OperationalError() if "locked" in str(exception):
                logger.error("database: %s", exception)
                return error_pages.of_code(request, 503, "database_busy")
        if settings.DEBUG and not error_pages.wants_problem(request):
            return None
        # As Django does for what it handles itself: error reporters and the test client listen.
        got_request_exception.send(sender=type(self), request=request)
        return error_pages.of_exception(request, exception)
