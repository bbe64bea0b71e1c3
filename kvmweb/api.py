"""The API at ``/api/v1/``: every app's router, one way to answer an error."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from accounts.api import router as accounts_router
from accounts.apiauth import user_auth
from accounts.errors import DomainError
from accounts.request_api import router as requests_router
from hosts.api import router as hosts_router
from jobs.api import router as jobs_router
from kvmweb import __version__, problems
from vms.access_api import router as access_router
from vms.api import router as vms_router
from vms.backups.api import router as backups_router
from vms.consoles.api import router as consoles_router
from vms.growth_api import router as growth_router
from vms.guest.api import router as guest_router
from vms.hardware.api import router as hardware_router
from vms.images.api import router as images_router
from vms.lease_api import router as leases_router
from vms.machine_templates.api import router as templates_router
from vms.moving.api import router as moving_router
from vms.ports.api import router as ports_router
from vms.snapshots.api import router as snapshots_router

DESCRIPTION = """\
Everything that the pages do. Send `Authorization: Bearer kvmw_...` (made on your profile).

* Lists answer `{"items": [...], "count": n}` and take `?page=` (from 1) and `?page_size=` (to 200).
* Errors are problem details (RFC 9457): `code` and `params` for programs, `detail` for people,
  `errors` names the inputs.
* A POST that creates takes an `Idempotency-Key`: repeated, it has one effect and one answer.
* Long work answers 202 with its job; follow `GET /jobs/{id}`.
"""

# No docs UI: Swagger's and Redoc's pages need inline script, which our CSP refuses.
api = NinjaAPI(
    title="KVMWeb",
    version=__version__,
    description=DESCRIPTION,
    docs_url=None,
    openapi_url="/openapi.json",
    auth=user_auth,
    urls_namespace="api",
)
for _router in (
    accounts_router,
    requests_router,
    jobs_router,
    hosts_router,
    vms_router,
    consoles_router,
    images_router,
    snapshots_router,
    templates_router,
    backups_router,
    access_router,
    hardware_router,
    growth_router,
    leases_router,
    guest_router,
    moving_router,
    ports_router,
):
    api.add_router("", _router)


@api.exception_handler(DomainError)
def _domain_error(request: HttpRequest, exc: DomainError) -> HttpResponse:
    return problems.of_error(request, exc)


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, exc: Http404) -> HttpResponse:  # noqa: ARG001
    return problems.problem(request, status=404, code="not_found")


@api.exception_handler(AuthenticationError)
def _sign_in_needed(request: HttpRequest, exc: AuthenticationError) -> HttpResponse:  # noqa: ARG001
    return problems.problem(request, status=401, code="sign_in_needed")


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, exc: HttpError) -> HttpResponse:
    """Raised by ninja itself, for a body that is no JSON."""
    return problems.problem(request, status=exc.status_code, code="bad_request")


@api.exception_handler(ValidationError)
def _wrong_input(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    errors = [_field_error(error) for error in exc.errors]
    return problems.problem(request, status=422, code="invalid", errors=errors)


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    """Pydantic's finding; ``loc`` is where: ("body", "payload", "name")."""
    where, *names = [str(part) for part in error["loc"]]
    # The first name in a body is that of the view's parameter, which nobody sent.
    field = ".".join(names[1:] if where == "body" and len(names) > 1 else names)
    kind = str(error["type"])
    return {"field": field or where, "code": kind, "message": _input_text(kind, error)}


# Pydantic's kinds of findings in our words; a kind that is not here keeps pydantic's.
_INPUT_TEXTS = {
    "missing": _("This is needed."),
    "extra_forbidden": _("There is no such input."),
    "string_type": _("This must be text."),
    "int_type": _("This must be a whole number."),
    "int_parsing": _("This must be a whole number."),
    "int_from_float": _("This must be a whole number."),
    "bool_type": _("This must be true or false."),
    "bool_parsing": _("This must be true or false."),
    "list_type": _("This must be a list."),
    "greater_than_equal": _("This must be at least %(ge)s."),
    "less_than_equal": _("This must be at most %(le)s."),
    "string_too_long": _("This is longer than %(max_length)s characters."),
    "string_too_short": _("This is shorter than %(min_length)s characters."),
}


def _input_text(kind: str, error: dict[str, Any]) -> str:
    text = _INPUT_TEXTS.get(kind)
    return str(error["msg"]) if text is None else str(text) % error.get("ctx", {})
