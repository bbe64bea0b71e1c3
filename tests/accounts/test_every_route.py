"""No way in that nobody thought of: every URL and API operation, as each kind of person.

A route that does not declare its policy fails here, and so does one whose arguments this test
cannot fill: add them to ``ARGUMENTS``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts import access, apiauth
from accounts.models import Team, User
from kvmweb.api import api as site_api
from vms.models import VM

pytestmark = pytest.mark.django_db
# Not ours: allauth's and Django's own pages guard themselves; the API is walked below.
FOREIGN = ("accounts/", "django-admin/", "api/")


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern) and not path.startswith(FOREIGN):
            yield path, pattern.callback


ROUTES = dict(routes())
OPERATIONS = [
    (method, path, operation)
    for router in site_api._get_bound_routers()
    for path, view in router.path_operations.items()
    for operation in view.operations
    for method in operation.methods
]


@pytest.fixture
def fill(vm: VM, team: Team, owner: User):
    """A path with the owner's objects in the places of its arguments."""
    known = {"uuid": str(vm.uuid), "user_id": str(owner.pk), "team_id": str(team.pk)}

    def filled(path: str) -> str:
        def value(match: re.Match[str]) -> str:
            kind, _, name = match[1].rpartition(":")
            if name in known and not kind.startswith("uuid"):
                return known[name]
            if kind.startswith("uuid") or name.endswith("uuid"):
                return known["uuid"] if name in ("uuid", "vm_uuid") else str(uuid.uuid4())
            return "1" if kind == "int" or name.endswith("id") else "start"

        return "/" + re.sub(r"[<{]([^>}]+)[>}]", value, path).lstrip("/")

    return filled


@pytest.mark.parametrize("path", ROUTES)
def test_declares_its_policy(path: str) -> None:
    assert getattr(ROUTES[path], access.ATTRIBUTE, None) in (
        access.PUBLIC,
        access.SIGNED_IN,
        access.ADMIN,
    )


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path", [p for p, v in ROUTES.items() if getattr(v, access.ATTRIBUTE, "") != access.PUBLIC]
)
def test_strangers_are_led_to_the_sign_in(path: str, method: str, fill, client: Client) -> None:
    answer = getattr(client, method)(fill(path))
    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path", [p for p, v in ROUTES.items() if getattr(v, access.ATTRIBUTE, "") == access.ADMIN]
)
def test_admin_pages_are_for_admins(path: str, method: str, fill, browser, owner: User) -> None:
    assert getattr(browser(owner), method)(fill(path)).status_code == 403


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("path", [p for p in ROUTES if "machines/<uuid:" in p])
def test_anothers_machine_does_not_exist(
    path: str, method: str, fill, browser, outsider: User
) -> None:
    assert getattr(browser(outsider), method)(fill(path)).status_code in (404, 405)


def _id(value: Any) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=_id)
def test_the_api_asks_who(method: str, path: str, operation: Any, fill, client: Client) -> None:
    answer = client.generic(method, "/api/v1" + fill(path), "{}", content_type="application/json")
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"


def _is_admins(operation: Any) -> bool:
    return any(getattr(auth, "admin", False) for auth in operation.auth_callbacks)


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p, o in OPERATIONS if _is_admins(o)], ids=_id
)
def test_admin_operations_are_for_admins(method: str, path: str, fill, api, owner: User) -> None:
    assert api(owner).request(method, fill(path), {}).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p, _ in OPERATIONS if "/vms/{" in p], ids=_id
)
def test_the_api_hides_anothers_machine(method: str, path: str, fill, api, outsider: User) -> None:
    # 422: a body that is no request at all is refused before the machine is looked for.
    assert api(outsider).request(method, fill(path), {}).status_code in (404, 422)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=_id)
def test_changing_takes_the_scope_write(
    method: str, path: str, operation: Any, fill, api, owner: User
) -> None:
    if method == "GET" or _is_admins(operation):
        return
    answer = api(owner, ("read",)).request(method, fill(path), {})
    assert answer.status_code == 403
    assert answer.json()["code"] == "api.scope_missing"


def test_every_operation_has_our_auth() -> None:
    ours = (apiauth.BearerAuth, apiauth.SessionAuth)
    for method, path, operation in OPERATIONS:
        assert operation.auth_callbacks, (method, path)
        assert all(isinstance(auth, ours) for auth in operation.auth_callbacks), (method, path)
