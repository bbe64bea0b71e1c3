"""Every password is asked for at one place: the one that throttles and wants the second factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP
from django.contrib.auth.hashers import MD5PasswordHasher
from django.test import Client
from django.urls import NoReverseMatch, reverse

from accounts import revocations, services
from accounts.errors import Forbidden
from accounts.models import User
from tests.conftest import PASSWORD
from vms.consoles import tickets
from vms.models import VM

pytestmark = pytest.mark.django_db


def test_the_time_tells_nobody_who_exists(
    owner: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is hashing: it is done as often for a name or address that nobody has."""
    hashed: list[str] = []
    encode = MD5PasswordHasher.encode

    def counted(self: MD5PasswordHasher, password: str, salt: str) -> str:
        hashed.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)

    def times(login: str) -> int:
        hashed.clear()
        client.post("/accounts/login/", {"login": login, "password": "wrong wrong"})
        return len(hashed)

    assert times("owner") == times("nobody")
    assert times("owner@example.test") == times("nobody@example.test")


def test_djangos_admin_asks_for_no_password(admin: User, client: Client) -> None:
    answer = client.get("/django-admin/login/")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/")
    client.post("/django-admin/login/", {"username": "admin", "password": PASSWORD})
    assert "_auth_user_id" not in client.session


def test_djangos_admin_changes_no_password(admin: User, browser: Callable[[User], Client]) -> None:
    new = "another horse battery"
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    answer = browser(admin).post("/django-admin/password_change/", data)
    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/password/change/"
    admin.refresh_from_db()
    assert admin.check_password(PASSWORD)


def test_djangos_admin_is_for_admins(owner: User, browser: Callable[[User], Client]) -> None:
    assert browser(owner).get("/django-admin/login/").status_code == 403
    assert browser(owner).get("/django-admin/accounts/user/").status_code in (302, 403)


@pytest.mark.parametrize("model", ["auth_group", "account_emailaddress", "mfa_authenticator"])
def test_djangos_admin_has_nothing_that_is_changed_without_audit(model: str) -> None:
    with pytest.raises(NoReverseMatch):
        reverse(f"admin:{model}_changelist")


def test_the_secret_of_a_second_factor_is_not_in_the_database(owner: User) -> None:
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    TOTP.activate(owner, secret)
    row = Authenticator.objects.get(user=owner)
    assert secret not in str(row.data)
    assert row.wrap().validate_code("000000") is False  # it can be read back


# --- a changed password ends what an older sign-in holds open ------------------------------------
@pytest.fixture
def console(
    owner: User, vm: VM, browser: Callable[[User], Client]
) -> tuple[tickets.IssuedTicket, str]:
    """A ticket of a browser that somebody else sits at."""
    key = browser(owner).session.session_key or ""
    return tickets.issue(user=owner, vm=vm, session_key=key), key


def test_a_reset_password_ends_consoles(
    owner: User, console: tuple[tickets.IssuedTicket, str]
) -> None:
    services.set_password(actor=None, user=owner, password="a new horse battery")
    with pytest.raises(Forbidden):
        tickets.redeem(console[0].secret, kind="vnc")


def test_an_open_console_is_asked_again(
    owner: User, console: tuple[tickets.IssuedTicket, str]
) -> None:
    grant = tickets.redeem(console[0].secret, kind="vnc")
    assert tickets.still_allowed(grant)
    services.set_password(actor=None, user=owner, password="a new horse battery")
    assert not tickets.still_allowed(grant)


def test_a_changed_password_ends_the_other_sessions(
    owner: User,
    console: tuple[tickets.IssuedTicket, str],
    browser: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    told: list[revocations.Revocation] = []
    monkeypatch.setattr(revocations, "_callbacks", [told.append])
    mine = browser(owner)
    new = "another horse battery"
    data = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    with django_capture_on_commit_callbacks(execute=True):
        assert mine.post("/accounts/password/change/", data).status_code == 302
    assert [one.reason for one in told] == ["password_changed"]
    assert mine.get("/profile/").status_code == 200, "who changed it stays signed in"
    with pytest.raises(Forbidden):
        tickets.redeem(console[0].secret, kind="vnc")
