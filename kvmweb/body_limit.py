"""How large a request's body may be, before anything reads it.

Django's ASGI handler writes the whole body to a temporary file and only then asks who sends it:
without this, a stranger fills the disk with one request to any address. ``BodyLimit`` stops
reading; ``BodyLimitMiddleware`` says so, as a page, a fragment or problem details.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from kvmweb import error_pages

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# A piece of an uploaded image; ``vms.images.uploads`` says the same to whoever may send one.
UPLOAD_MAX_BYTES = 64 * 1024 * 1024
_UPLOAD = re.compile(r"/api/v1/images/\d{1,18}/upload\Z", re.ASCII)
_TOO_LARGE = "kvmweb.body_too_large"


class BodyLimit:
    """Around Django's ASGI application: gives it no more of a body than the limit."""

    def __init__(self, application: Any) -> None:
        self.application: Application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = _limit(scope)
        scope[_TOO_LARGE] = _declared(scope) > limit
        come = 0
        ended = False

        async def bounded() -> Message:
            nonlocal come, ended
            while ended:  # what still comes is dropped; Django only waits for the end of it
                message = await receive()
                if message["type"] != "http.request":
                    return message
            if not scope[_TOO_LARGE]:
                message = await receive()
                come += len(message.get("body", b""))
                if come <= limit:
                    return message
                scope[_TOO_LARGE] = True
            ended = True
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.application(scope, bounded, send)


class BodyLimitMiddleware:
    """Refuses what ``BodyLimit`` has cut off."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not getattr(request, "scope", {}).get(_TOO_LARGE):
            return self.get_response(request)
        response = error_pages.of_code(request, 413, "body_too_large")
        response["Connection"] = "close"  # the rest of the body is not read
        return response


def _limit(scope: Scope) -> int:
    if _UPLOAD.search(str(scope.get("path", ""))):
        return UPLOAD_MAX_BYTES
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0)


def _declared(scope: Scope) -> int:
    """Content-Length, 0 when there is none or it is no number."""
    for name, value in scope.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
