"""What every answer carries, whoever made it; and where a person is never sent."""

from __future__ import annotations

from collections.abc import Callable
from importlib import reload
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from tests.conftest import PASSWORD
from vms.models import VM

pytestmark = pytest.mark.django_db

PATHS = [
    "/",
    "/accounts/login/",
    "/accounts/signup/",
    "/accounts/password/reset/",
    "/accounts/email/",
    "/accounts/2fa/",
    "/machines/",
    "/machines/?part=results",
    "/machines/new/",
    "/activity/",
    "/profile/",
    "/nothing/here",
    "/api/v1/me",
    "/api/v1/openapi.json",
    "/api/v1/nothing",
    "/healthz",
    "/readyz",
    "/metrics",
    "/django-admin/",
    "/static/nothing.js",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_fenced(
    path: str, owner: User, client: Client, browser: Callable[..., Any]
) -> None:
    for who in (client, browser(owner)):
        answer = who.get(path)
        policy = answer["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["X-Frame-Options"] == "SAMEORIGIN"
        assert answer["Referrer-Policy"] == "same-origin"
        assert "camera=()" in answer["Permissions-Policy"]


def test_a_strange_host_is_refused_and_not_repeated(client: Client) -> None:
    answer = client.get("/", headers={"host": "evil.test"})
    assert answer.status_code == 400
    assert "evil.test" not in answer.content.decode()
    assert "evil.test" not in answer["Content-Security-Policy"]
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_cookies_are_for_http_only(owner: User, client: Client) -> None:
    client.post("/accounts/login/", {"login": "owner", "password": PASSWORD})
    session = client.cookies["kvmweb_session"]
    assert session["httponly"]
    assert session["samesite"] == "Lax"


def test_behind_tls_cookies_are_secure_and_the_browser_remembers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kvmweb.settings import base

    monkeypatch.setenv("KVMWEB_HTTPS", "true")
    try:
        secure = reload(base)
        assert secure.SESSION_COOKIE_SECURE
        assert secure.CSRF_COOKIE_SECURE
        assert secure.SECURE_HSTS_SECONDS >= 31_536_000
    finally:
        monkeypatch.undo()
        reload(base)


EVIL = [
    "//evil.test",
    "https://evil.test/",
    "http:evil.test",
    "/\\evil.test",
    "\\\\evil.test",
    "javascript:alert(1)",
    "///evil.test",
    "\thttps://evil.test",
    "https://testserver@evil.test/",
    "https://testserver.evil.test/",
]


@pytest.mark.parametrize("goal", EVIL)
def test_nobody_is_sent_elsewhere(
    goal: str, owner: User, vm: VM, client: Client, browser: Callable[..., Any]
) -> None:
    form = {"login": "owner", "password": PASSWORD, "next": goal}
    asked = [
        client.post("/accounts/login/", form),
        browser(owner).get("/accounts/login/", {"next": goal}),
        browser(owner).post("/accounts/logout/", {"next": goal}),
        client.post("/preferences/", {"theme": "dark", "next": goal}),
        client.post("/i18n/setlang", {"language": "en", "next": goal}, headers={"Referer": goal}),
        browser(owner).post(
            f"/machines/{vm.uuid}/edit/", {"name": "web-2"}, headers={"Referer": goal}
        ),
    ]
    for answer in asked:
        assert answer.status_code in (200, 204, 302)
        assert "evil.test" not in answer.get("Location", "/")
        assert not answer.get("Location", "/").startswith(("//", "javascript:", "\\"))


def test_a_session_that_was_planted_is_not_signed_in(owner: User, client: Client) -> None:
    client.get("/accounts/login/")
    session = client.session
    session["planted"] = "yes"
    session.save()
    planted = session.session_key
    client.post("/accounts/login/", {"login": "owner", "password": PASSWORD})
    assert client.session.session_key != planted
    other = Client()
    other.cookies["kvmweb_session"] = planted or ""
    assert other.get("/profile/").status_code == 302


def test_who_exists_is_not_told(owner: User, client: Client) -> None:
    def said(path: str, **form: str) -> str:
        page = client.post(path, form).content.decode()
        for word in form.values():
            page = page.replace(word, "")
        return "\n".join(line for line in page.splitlines() if "csrf" not in line.lower())

    wrong = {"password": "wrong wrong wrong"}
    login = "/accounts/login/"
    assert said(login, login="owner", **wrong) == said(login, login="nobody", **wrong)
    reset = "/accounts/password/reset/"
    assert said(reset, email="owner@example.test") == said(reset, email="nobody@example.test")


@pytest.mark.parametrize("path", ["/metrics"])
def test_figures_are_for_admins(
    path: str, owner: User, admin: User, client: Client, api: Callable[..., Any]
) -> None:
    assert client.get(path).status_code == 401

    def asks(speaker: Any) -> int:
        headers = {"Authorization": f"Bearer {speaker.secret}"}
        return int(client.get(path, headers=headers).status_code)

    assert asks(api(owner)) == 403
    assert asks(api(admin, ("read", "write"))) == 403
    assert asks(api(admin)) == 200
