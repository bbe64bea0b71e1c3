"""An error as a page, as a fragment of one, or as problem details: as the request wants it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.translation import gettext as _

from accounts import messages, requests
from accounts.access import public
from accounts.errors import DomainError
from kvmweb import problems

logger = logging.getLogger(__name__)

_REF_BYTES = 4


def wants_problem(request: HttpRequest) -> bool:
    prefix = (settings.FORCE_SCRIPT_NAME or "") + "/api/"
    if request.path.startswith(prefix):
        return True
    accepted = request.headers.get("Accept", "")
    return "json" in accepted and "html" not in accepted and "*/*" not in accepted


def of_error(request: HttpRequest, error: DomainError) -> HttpResponse:
    if wants_problem(request):
        return problems.of_error(request, error)
    return _for_people(request, error.status, error.code, error.params)


def of_code(
    request: HttpRequest, status: int, code: str, params: Mapping[str, Any] | None = None
) -> HttpResponse:
    if wants_problem(request):
        return problems.problem(request, status=status, code=code, params=params)
    return _for_people(request, status, code, params or {})


def of_exception(request: HttpRequest, exception: BaseException) -> HttpResponse:
    """An error that nobody foresaw: noted in the log under a reference that the person sees."""
    ref = secrets.token_hex(_REF_BYTES)
    logger.error(
        "unexpected error, reference %s, request %s %r",  # %r: a path may hold line breaks
        ref,
        request.method,
        request.path,
        exc_info=exception,
    )
    return of_code(request, 500, "internal", {"ref": ref})


def _for_people(
    request: HttpRequest, status: int, code: str, params: Mapping[str, Any]
) -> HttpResponse:
    text = messages.text(code, params)
    more = requests.prefilled(params, asker=request.user) if code == "quota.exceeded" else ""
    if request.headers.get("HX-Request") == "true":
        # The status is kept and nothing is swapped: toasts.js reads the marked text.
        marked = (
            format_html(
                '<p data-error-text data-link="{}" data-link-text="{}">{}</p>',
                more,
                _("Ask for more"),
                text,
            )
            if more
            else format_html("<p data-error-text>{}</p>", text)
        )
        response = HttpResponse(marked, status=status)
        response["HX-Reswap"] = "none"
        return _finished(response, params)
    context = {
        "status": status,
        "code": code,
        "title": problems.title(status),
        "text": text,
        "more": more,
    }
    return _finished(_page(request, context, status), params)


def _page(request: HttpRequest, context: dict[str, Any], status: int) -> HttpResponse:
    try:
        body = render_to_string("errors.html", context, request)
    except Exception:
        # The page's frame may need what has just failed; the plain page needs nothing.
        logger.exception("the error page could not be made")
        body = render_to_string("errors_plain.html", context)
    return HttpResponse(body, status=status)


def _finished(response: HttpResponse, params: Mapping[str, Any]) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    problems.with_retry_after(response, params)
    return response


# --- what Django calls -------------------------------------------------------------------------
@public
def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    return of_code(request, 404, "not_found")


@public
def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    return of_code(request, 403, "forbidden")


@public
def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    return of_code(request, 400, "bad_request")


@public
def server_error(request: HttpRequest) -> HttpResponse:
    """For what fails outside views, where Django has logged the cause already."""
    try:
        return of_code(request, 500, "internal", {"ref": getattr(request, "request_id", "?")[:8]})
    except Exception:
        logger.exception("the error answer could not be made")
        return HttpResponseServerError("KVMWeb: internal error", content_type="text/plain")


@public
def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    logger.warning("CSRF check failed: %r (%r)", reason, request.path)
    return of_code(request, 403, "csrf_failed")
