"""Second factors by an app and by recovery codes; security keys: tests/front."""

from __future__ import annotations

import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    format_hotp_value,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.test import Client

from accounts.models import AuditEntry, User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db


def sign_in(user: User) -> Client:
    client = Client()
    client.post("/accounts/login/", {"login": user.username, "password": PASSWORD})
    return client


def code_of(secret: str) -> str:
    counter = next(iter(yield_hotp_counters_from_time()))
    return format_hotp_value(hotp_value(secret, counter))


def set_up(client: Client) -> str:
    """An authenticator app; its secret. Whoever sits at the browser shows the password again."""
    asked = client.get("/accounts/2fa/totp/activate/")
    assert asked.status_code == 302
    assert asked["Location"].startswith("/accounts/reauthenticate/")
    back = client.post(asked["Location"], {"password": PASSWORD})
    assert back["Location"] == "/accounts/2fa/totp/activate/"
    page = client.get("/accounts/2fa/totp/activate/")
    secret = page.context["form"].secret
    answer = client.post("/accounts/2fa/totp/activate/", {"code": code_of(secret)})
    assert answer.status_code == 302, answer.content.decode()
    return str(secret)


def verbs(user: User) -> list[str]:
    rows = AuditEntry.objects.filter(target_id=str(user.pk), verb__contains="factor")
    return list(rows.order_by("id").values_list("verb", flat=True))


def test_by_an_app(
    owner: User, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        secret = set_up(sign_in(owner))
    client = sign_in(owner)
    assert "_auth_user_id" not in client.session
    page = client.get("/accounts/2fa/authenticate/").content.decode()
    assert "mfa_webauthn_authenticate" not in page, "no key, no button for it"
    wrong = client.post("/accounts/2fa/authenticate/", {"code": "000000"})
    assert wrong.status_code == 200
    assert "_auth_user_id" not in client.session
    # The code of before was used to set it up, and none is good twice.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    client.post("/accounts/2fa/authenticate/", {"code": code_of(secret)})
    assert client.session["_auth_user_id"] == str(owner.pk)
    said = verbs(owner)
    assert said[0] == "user.add_second_factor"
    assert "user.second_factor_failed" in said
    rows = AuditEntry.objects.filter(verb__contains="factor")
    assert secret not in str(list(rows.values_list("before", "after")))


def test_who_signed_up_with_an_address_may_have_one(client: Client, settings: Any) -> None:
    """Where addresses are not verified nobody could ever verify theirs first."""
    settings.OPEN_SIGNUP = True
    data = {"username": "new", "email": "new@example.test"}
    client.post("/accounts/signup/", data | {"password1": PASSWORD, "password2": PASSWORD})
    set_up(client)
    assert Authenticator.objects.filter(user__username="new", type="totp").exists()


def test_a_key_is_removed_after_the_password(
    owner: User, django_capture_on_commit_callbacks: Any
) -> None:
    client = sign_in(owner)
    key = Authenticator.objects.create(user=owner, type="webauthn", data={"name": "Blue key"})
    at = f"/accounts/2fa/webauthn/keys/{key.pk}/remove/"
    asked = client.get(at)
    assert asked["Location"].startswith("/accounts/reauthenticate/")
    assert Authenticator.objects.filter(pk=key.pk).exists()
    assert client.post(asked["Location"], {"password": PASSWORD})["Location"] == at
    assert client.get(at).status_code == 200
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(at).status_code == 302
    assert not Authenticator.objects.filter(pk=key.pk).exists()
    assert "user.remove_second_factor" in verbs(owner)
    assert sign_in(owner).session["_auth_user_id"] == str(owner.pk)
