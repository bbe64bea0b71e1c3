"""No way in that nobody thought of: a route that does not declare its policy, or an operation
without our auth, fails here. Each as each kind of person: ``tests/security/test_every_way_in.py``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
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


def test_every_operation_has_our_auth() -> None:
    ours = (apiauth.BearerAuth, apiauth.SessionAuth)
    for method, path, operation in OPERATIONS:
        assert operation.auth_callbacks, (method, path)
        assert all(isinstance(auth, ours) for auth in operation.auth_callbacks), (method, path)
