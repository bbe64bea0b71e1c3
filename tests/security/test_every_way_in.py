"""Every route, API operation and WebSocket as each kind of person: allowed, refused or invisible as
``docs/contributor/access.md`` says, with real objects; and nothing else."""

from __future__ import annotations

import re

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve

from accounts import tokens
from tests.accounts.test_every_route import OPERATIONS, ROUTES
from tests.security import ways_in
from tests.security.ways_in import Example, address, ask, outcome
from tests.security.ways_world import MARK, ROLES, World

pytestmark = pytest.mark.django_db
RULES, WAYS = ways_in.read()
HTTP = {way: rule for way, rule in WAYS.items() if not way.startswith("WS ")}
# What a refusal may write: that it was one, and that a token or session was used.
_MAY_WRITE = re.compile(
    r'(INSERT INTO|UPDATE|DELETE FROM) "(accounts_auditentry|accounts_apitoken|django_session)"'
)
_WRITES = re.compile(r"^(INSERT|UPDATE|DELETE)\b")


def text_of(answer: HttpResponse) -> str:
    if answer.streaming:
        if answer.is_async:
            return ""
        return b"".join(answer.streaming_content).decode(errors="replace")  # type: ignore[arg-type]
    return answer.content.decode(errors="replace")


# --- the tables are whole ------------------------------------------------------------------------
def test_the_rules_are_of_all_roles() -> None:
    for rule, outcomes in RULES.items():
        assert tuple(outcomes) == ROLES, rule
        assert set(outcomes.values()) <= {"yes", "no", "hidden", "sign in"}, rule
    assert set(WAYS.values()) <= set(RULES), set(WAYS.values()) - set(RULES)


def test_every_route_and_operation_stands_in_the_table(
    world: World, examples: dict[str, Example]
) -> None:
    listed = set()
    for way in HTTP:
        path = address(world, way, examples.get(way, Example())).partition("?")[0]
        listed.add((way.split(" ", 1)[0], resolve(path).route))
    wanted = {
        (method, "api/v1" + path.replace("{", "<").replace("}", ">"))
        for method, path, _operation in OPERATIONS
    }
    missing = wanted - listed
    assert not missing, f"no line in docs/contributor/access.md for {sorted(missing)}"
    routes = {route for _method, route in listed}
    unlisted = set(ROUTES) - routes
    assert not unlisted, f"no line in docs/contributor/access.md for {sorted(unlisted)}"


def test_a_method_that_the_table_does_not_name_is_not_there(
    world: World, examples: dict[str, Example]
) -> None:
    """So the lines of a page are all of its methods."""
    pages: dict[str, dict[str, str]] = {}
    for way in HTTP:
        at = address(world, way, examples.get(way, Example())).partition("?")[0]
        pages.setdefault(resolve(at).route, {})[way.split(" ", 1)[0]] = at
    client = Client()
    for route in ROUTES:
        mine = pages[route]
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(mine):
            client.cookies[settings.SESSION_COOKIE_NAME] = world.cookies["admin"]
            answer = client.generic(method, next(iter(mine.values())))
            assert answer.status_code == 405, (method, route)


# --- each as each --------------------------------------------------------------------------------
@pytest.mark.parametrize("way", HTTP)
def test_way(way: str, world: World, examples: dict[str, Example]) -> None:
    example = examples.get(way, Example())
    wrong = {}
    for role in ROLES:
        wanted = RULES[HTTP[way]][role]
        with transaction.atomic():
            cache.clear()
            if example.before:
                example.before(world, role)
            with CaptureQueriesContext(connection) as queries:
                answer = ask(world, way, example, role)
                said = text_of(answer)
            transaction.set_rollback(True)
        got = outcome(answer, example, wanted)
        if got != wanted:
            wrong[role] = f"{got}, the table says {wanted}"
            continue
        if got == "hidden" or role in ("outsider", "anonymous", "deactivated"):
            shown = said.replace(address(world, way, example), "")
            if MARK in shown and not (example.tells and got == "yes"):
                wrong[role] = f"{got}, but it tells of what is hidden: {_around(shown)}"
        if got != "yes" or way.startswith("GET "):
            writes = [one["sql"] for one in queries if _WRITES.match(one["sql"])]
            kept = [sql[:200] for sql in writes if not _MAY_WRITE.match(sql)]
            if kept:
                wrong[role] = f"{got}, but it writes: {kept}"
    assert not wrong, "\n".join(f"{role}: {why}" for role, why in wrong.items())


def _around(text: str) -> str:
    at = text.index(MARK)
    return text[max(0, at - 80) : at + 80]


# --- what tokens may -----------------------------------------------------------------------------
SCOPES = {
    # scopes of an admin's token -> what it may: (look, change, look as admin, change as admin)
    ("read",): (True, False, False, False),
    ("write",): (False, True, False, False),
    ("read", "write"): (True, True, False, False),
    ("admin",): (False, False, True, True),
}
ADMINS = {
    (method, "api/v1" + path.replace("{", "<").replace("}", ">"))
    for method, path, operation in OPERATIONS
    if any(getattr(auth, "admin", False) for auth in operation.auth_callbacks)
}


@pytest.mark.parametrize("scopes", SCOPES, ids="+".join)
def test_tokens_obey_their_scopes(
    scopes: tuple[str, ...], world: World, examples: dict[str, Example]
) -> None:
    """Each operation with its real object by an admin's token of these scopes."""
    token = tokens.issue(world.people["admin"], "x", list(scopes), None)[1]
    may = SCOPES[scopes]
    for way in HTTP:
        if not way.split(" ", 1)[1].startswith("/api/"):
            continue
        example = examples.get(way, Example())
        path = address(world, way, example).partition("?")[0]
        method = way.split(" ", 1)[0]
        admins = (method, resolve(path).route) in ADMINS
        with transaction.atomic():
            cache.clear()
            answer = ask(world, way, example, "admin", token=token)
            code = answer.json().get("code") if answer.status_code == 403 else ""
            transaction.set_rollback(True)
        refused = code == "api.scope_missing"
        assert refused is not may[2 * admins + (method != "GET")], (way, answer.status_code, code)
        if not refused and "admin" not in scopes:
            # Without the scope admin an admin is nobody here.
            wanted = RULES[HTTP[way]]["outsider"]
            if wanted == "hidden":
                assert outcome(answer, example, wanted) == wanted, way


# --- looking as somebody else --------------------------------------------------------------------
def test_looking_as_somebody_reads_as_they_do_and_writes_nothing(
    world: World, examples: dict[str, Example]
) -> None:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = world.cookies["admin"]
    person = world.people["owner"]
    assert client.post(f"/admin/users/{person.pk}/view-as/").status_code == 302
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    for way in HTTP:
        if way == "POST /view-as/end/" or way == "GET /metrics":
            continue
        example = examples.get(way, Example())
        with transaction.atomic():
            cache.clear()
            if example.before:
                example.before(world, "owner")
            answer = ask(world, way, example, "admin", cookie=cookie, by_session=True)
            text_of(answer)
            transaction.set_rollback(True)
        wanted = RULES[HTTP[way]]["owner"] if way.startswith("GET ") else "no"
        assert outcome(answer, example, wanted) == wanted, (way, answer.status_code)


# --- who is out is out, and who is in by cookie --------------------------------------------------
def test_what_a_cookie_does_not_open(world: World, examples: dict[str, Example]) -> None:
    """A deactivated person's session, a wrong token beside a good one, a form of another site."""
    admin = world.cookies["admin"]
    gone, strict = Client(), Client(enforce_csrf_checks=True)
    for way in HTTP:
        method, path = way.split(" ", 1)
        example = examples.get(way, Example())
        at = address(world, way, example)
        json_type = {"content_type": "application/json"}
        if method != "GET" and RULES[HTTP[way]]["anonymous"] != "yes":
            strict.cookies[settings.SESSION_COOKIE_NAME] = admin
            answer = strict.generic(method, at, "{}", **json_type)
            assert answer.status_code == 403, way
            if path.startswith("/api/"):
                assert answer.json()["code"] == "csrf_failed", way
        if path.startswith("/api/"):
            gone.cookies[settings.SESSION_COOKIE_NAME] = world.cookies["deactivated"]
            assert gone.generic(method, at, "{}", **json_type).status_code == 401, way
            gone.cookies[settings.SESSION_COOKIE_NAME] = admin
            wrong = {"Authorization": "Bearer kvmw_guess"}
            answer = gone.generic(method, at, "{}", headers=wrong, **json_type)
            assert answer.status_code == 401, way
