"""What stands around every answer: policy of content, request id, errors in three forms."""

from __future__ import annotations

import logging

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts import audit
from accounts.errors import Busy, Conflict, TooMany
from accounts.models import AuditEntry, User


def conflict(request: HttpRequest) -> HttpResponse:
    raise Conflict("user.last_admin")


def too_often(request: HttpRequest) -> HttpResponse:
    raise TooMany("too_many", retry_after=7)


def hostile(request: HttpRequest) -> HttpResponse:
    raise Busy("user.unknown", username="<script>alert(1)</script>")


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("the raw text of it")


def no_redis(request: HttpRequest) -> HttpResponse:
    raise RedisConnectionError("no socket")


urlpatterns = [
    path("t/conflict", conflict),
    path("t/too-often", too_often),
    path("t/hostile", hostile),
    path("t/broken", broken),
    path("t/no-redis", no_redis),
    path("api/t/conflict", conflict),
    path("api/t/broken", broken),
    path("", include("kvmweb.urls")),
]
handler404 = "kvmweb.error_pages.not_found"
pytestmark = pytest.mark.django_db


@pytest.fixture
def site():
    with override_settings(ROOT_URLCONF=__name__):
        yield Client(raise_request_exception=False)


def test_content_security_policy(site: Client) -> None:
    answer = site.get("/accounts/login/")
    policy = {
        part.split(" ")[0]: part.split(" ")[1:]
        for part in answer["Content-Security-Policy"].split("; ")
    }
    assert policy == {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:", "blob:"],
        "connect-src": ["'self'", "ws://testserver"],
        "font-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'self'"],
    }
    assert "camera=()" in answer["Permissions-Policy"]
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "url", ["/accounts/login/", "/healthz", "/t/broken", "/nowhere", "/api/v1/me"]
)
def test_every_answer_has_it(url: str, site: Client) -> None:
    assert "default-src 'none'" in site.get(url)["Content-Security-Policy"]


def test_error_page(site: Client) -> None:
    answer = site.get("/t/conflict")
    assert answer.status_code == 409
    assert "last active admin" in answer.content.decode()
    assert "<html" in answer.content.decode()


def test_error_fragment(site: Client) -> None:
    answer = site.get("/t/hostile", headers={"HX-Request": "true"})
    text = answer.content.decode()
    assert answer.status_code == 409
    assert answer["HX-Reswap"] == "none"
    assert text.startswith("<p data-error-text>")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_problem(site: Client) -> None:
    answer = site.get("/api/t/conflict")
    assert answer.status_code == 409
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "urn:kvmweb:error:user.last_admin"
    assert body["request_id"] == answer["X-Request-ID"]


def test_retry_after(site: Client) -> None:
    answer = site.get("/t/too-often")
    assert (answer.status_code, answer["Retry-After"]) == (429, "7")
    assert "7 seconds" in answer.content.decode()


@pytest.mark.parametrize("url", ["/t/broken", "/api/t/broken"])
def test_unforeseen(url: str, site: Client, caplog) -> None:
    with caplog.at_level(logging.ERROR):
        answer = site.get(url)
    text = answer.content.decode()
    assert answer.status_code == 500
    assert "the raw text" not in text
    logged = next(r for r in caplog.records if r.name == "kvmweb.error_pages")
    ref = logged.args[0]
    assert ref in text
    assert "ZeroDivisionError" in caplog.text


def test_without_redis(site: Client) -> None:
    assert site.get("/t/no-redis").status_code == 503


def test_nowhere(site: Client, owner: User) -> None:
    assert site.get("/nowhere").status_code == 404
    site.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert site.get("/nowhere").status_code == 404


@override_settings(TRUSTED_PROXIES=["10.0.0.0/8", "unix"])
@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "6.6.6.6, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "not an address", "10.1.2.3"),
        ("", "203.0.113.9", "203.0.113.9"),
        ("", "", ""),
        ("2001:db8::1", "203.0.113.9", "2001:db8::1"),
    ],
)
def test_address_behind_proxies(peer: str, forwarded: str, expected: str) -> None:
    assert audit.resolve_address(peer, forwarded) == expected


def test_nobody_is_believed_by_default(settings) -> None:
    settings.TRUSTED_PROXIES = []
    assert audit.resolve_address("127.0.0.1", "203.0.113.9") == "127.0.0.1"
    assert audit.resolve_address("", "203.0.113.9") == ""


def test_the_record_names_request_and_address(site: Client, owner: User) -> None:
    answer = site.post(
        "/accounts/login/",
        {"login": "owner", "password": "wrong"},
        headers={"X-Request-ID": "chosen-by-a-stranger"},
        REMOTE_ADDR="192.0.2.5",
    )
    entry = AuditEntry.objects.get(verb="user.sign_in_failed")
    assert entry.address == "192.0.2.5"
    assert entry.request_id == answer["X-Request-ID"] != "chosen-by-a-stranger"


def test_the_record_is_append_only(owner: User) -> None:
    entry = AuditEntry.objects.first()
    assert entry is not None
    for change in (entry.save, entry.delete, AuditEntry.objects.all().delete):
        with pytest.raises(TypeError):
            change()
    with pytest.raises(TypeError):
        AuditEntry.objects.update(verb="nothing")


def test_secrets_do_not_reach_the_record(owner: User) -> None:
    entry = audit.record(
        owner, "test.it", owner, after={"password": "x", "deep": {"user_data": "y"}, "n": 1}
    )
    entry.refresh_from_db()
    assert entry.after == {
        "password": "(not recorded)",
        "deep": {"user_data": "(not recorded)"},
        "n": 1,
    }
