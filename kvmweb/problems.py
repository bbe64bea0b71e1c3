"""Problem details (RFC 9457) for the API, from any error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _

from accounts import messages, requests
from accounts.errors import DomainError

Response = TypeVar("Response", bound=HttpResponse)
CONTENT_TYPE = "application/problem+json"
_TYPE = "urn:kvmweb:error:"


def title(status: int) -> str:
    match status:
        case 400 | 422:
            return _("The input is not right")
        case 401:
            return _("Sign in first")
        case 403:
            return _("Not allowed")
        case 404:
            return _("Not found")
        case 405:
            return _("Not possible here")
        case 429:
            return _("Too often")
        case 503:
            return _("Not available at the moment")
        case _ if status >= 500:
            return _("A mistake of the site")
    return _("Not possible now")


def problem(
    request: HttpRequest,
    *,
    status: int,
    code: str,
    params: Mapping[str, Any] | None = None,
    detail: str | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JsonResponse:
    """``code`` and ``params`` for programs, ``detail`` for people; ``errors`` names inputs."""
    body: dict[str, Any] = {
        "type": _TYPE + code,
        "title": title(status),
        "status": status,
        "code": code,
        "detail": messages.text(code, params) if detail is None else detail,
        "params": {key: _plain(value) for key, value in (params or {}).items()},
        "request_id": getattr(request, "request_id", ""),
    }
    if errors is not None:
        body["errors"] = errors
    if code == "quota.exceeded" and (link := requests.prefilled(params or {}, asker=request.user)):
        body["request_url"] = request.build_absolute_uri(link)
    response = JsonResponse(body, status=status, content_type=CONTENT_TYPE)
    if status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="kvmweb"'
    return with_retry_after(response, params)


def of_error(request: HttpRequest, error: DomainError) -> JsonResponse:
    texts = messages.field_texts(error)
    errors = [
        {"field": field, "code": code, "message": texts[field]}
        for field, code in error.fields.items()
    ]
    return problem(
        request,
        status=error.status,
        code=error.code,
        params=error.params,
        errors=errors or None,
    )


def with_retry_after(response: Response, params: Mapping[str, Any] | None) -> Response:
    if params and "retry_after" in params:
        response["Retry-After"] = str(params["retry_after"])
    return response


def _plain(value: Any) -> Any:
    """JSON's own types as they are; anything else (a lazy text, a date) as its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return str(value)
