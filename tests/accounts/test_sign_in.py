"""Signing in and out: by name or address, throttled, closed to strangers, in the record."""

from __future__ import annotations

from asyncio import CancelledError

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client

from accounts import revocations
from accounts.models import AuditEntry, Team, User
from tests.conftest import PASSWORD

LOGIN = "/accounts/login/"


def sign_in(client: Client, login: str, password: str = PASSWORD, **extra):
    return client.post(LOGIN, {"login": login, "password": password}, **extra)


def verbs() -> list[tuple[str, str, str]]:
    rows = AuditEntry.objects.filter(verb__startswith="user.sign").order_by("id")
    return list(rows.values_list("verb", "actor_name", "target_name"))


@pytest.mark.parametrize("login", ["owner", "owner@example.test", "OWNER@example.test"])
def test_by_name_or_address(login: str, owner: User, client: Client) -> None:
    answer = sign_in(client, login)
    assert answer.status_code == 302
    assert client.get("/profile/").status_code == 200
    assert ("user.sign_in", "owner", "owner") in verbs()


def test_wrong_password_is_in_the_record_without_what_was_typed(
    owner: User, client: Client
) -> None:
    assert sign_in(client, "owner", "wrong").status_code == 200
    assert sign_in(client, "hunter2-typed-in-the-wrong-field", "x").status_code == 200
    assert ("user.sign_in_failed", "", "owner") in verbs()
    assert not AuditEntry.objects.filter(target_name__contains="hunter2").exists()


def test_sign_out_ends_what_the_session_opened(
    owner: User, client: Client, django_capture_on_commit_callbacks, monkeypatch
) -> None:
    told: list[revocations.Revocation] = []
    monkeypatch.setattr(revocations, "_callbacks", [told.append])
    sign_in(client, "owner")
    key = client.session.session_key
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/accounts/logout/")
    assert [(one.user_id, one.session_key, one.reason) for one in told] == [
        (owner.pk, key, "signed_out")
    ]
    assert client.get("/profile/").status_code == 302


def test_the_session_is_dead_before_anybody_hears_of_the_sign_out(
    owner: User, client: Client, django_capture_on_commit_callbacks, monkeypatch
) -> None:
    """A page that hears of it reloads at once, which cancels the request that signs out."""
    sign_in(client, "owner")
    alive: list[bool] = []
    reached: list[str] = []

    def gone(told: revocations.Revocation) -> None:
        alive.append(Session.objects.filter(pk=told.session_key).exists())
        raise CancelledError

    others = [gone, lambda told: reached.append(told.reason)]
    monkeypatch.setattr(revocations, "_callbacks", others)
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/accounts/logout/")
    assert alive == [False]
    assert reached == ["signed_out"]
    assert client.get("/").status_code == 302


def test_signing_out_takes_a_post(owner: User, client: Client) -> None:
    sign_in(client, "owner")
    client.get("/accounts/logout/")
    assert client.get("/profile/").status_code == 200


def test_deactivated(owner: User, client: Client) -> None:
    User.objects.filter(pk=owner.pk).update(is_active=False)
    sign_in(client, "owner")
    assert client.get("/profile/").status_code == 302


def test_throttled(owner: User, client: Client, settings) -> None:
    settings.ACCOUNT_RATE_LIMITS = {"login_failed": "5/5m/key"}
    cache.clear()
    for _ in range(5):
        sign_in(client, "owner", "wrong")
    assert client.get("/profile/").status_code == 302
    sign_in(client, "owner")
    assert client.get("/profile/").status_code == 302, "the right one comes too late"


def test_sign_up_is_closed(client: Client, db) -> None:
    answer = client.post(
        "/accounts/signup/",
        {"username": "new", "email": "", "password1": PASSWORD, "password2": PASSWORD},
    )
    assert answer.status_code == 200
    assert not User.objects.exists()


def test_open_sign_up_gives_a_team_of_ones_own(client: Client, db, settings) -> None:
    settings.OPEN_SIGNUP = True
    answer = client.post(
        "/accounts/signup/",
        {"username": "new", "email": "", "password1": PASSWORD, "password2": PASSWORD},
    )
    assert answer.status_code == 302
    assert Team.objects.get(personal_of__username="new").memberships.get().role == "manager"


def test_fragments_say_where_to_sign_in(client: Client, db) -> None:
    answer = client.get("/profile/", headers={"HX-Request": "true"})
    assert answer.status_code == 401
    assert answer["HX-Redirect"].startswith(LOGIN)


def test_sign_in_page_is_chinese_for_who_wants_it(client: Client, db) -> None:
    answer = client.get(LOGIN, headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    assert answer["Content-Language"] == "zh-hans"
    assert 'lang="zh-hans"' in answer.content.decode()


def test_language_of_the_account_wins(owner: User, client: Client) -> None:
    sign_in(client, "owner")
    client.post("/i18n/setlang", {"language": "zh-hans"})
    owner.refresh_from_db()
    assert owner.language == "zh-hans"
    answer = client.get("/profile/", headers={"Accept-Language": "en"})
    assert answer["Content-Language"] == "zh-hans"


def test_language_of_a_stranger_is_a_cookie(client: Client, db) -> None:
    client.post("/i18n/setlang", {"language": "zh-hans"})
    answer = client.get(LOGIN, headers={"Accept-Language": "en"})
    assert answer["Content-Language"] == "zh-hans"
