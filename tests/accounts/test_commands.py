"""What ``scripts/up`` and an admin at the shell call."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import tokens
from accounts.models import QuotaLimit, Resource, User

pytestmark = pytest.mark.django_db
PASSWORD = "a-long-password-of-ours"


def run(*argv: str) -> str:
    out = StringIO()
    call_command(*argv, stdout=out)
    return out.getvalue()


def test_init_is_repeatable_and_tells_no_secret(monkeypatch, client: Client) -> None:
    monkeypatch.setenv("KVMWEB_ADMIN_NAME", "boss")
    monkeypatch.setenv("KVMWEB_ADMIN_PASSWORD", PASSWORD)
    assert PASSWORD not in run("kvmweb_init")
    monkeypatch.setenv("KVMWEB_ADMIN_PASSWORD", "another-one-that-does-not-count")
    run("kvmweb_init")
    user = User.objects.get()
    assert user.is_admin
    assert user.check_password(PASSWORD)
    client.post("/accounts/login/", {"login": "boss", "password": PASSWORD})
    assert client.get("/admin/users/").status_code == 200
    assert QuotaLimit.objects.filter(scope="site").count() == len(Resource)


def test_init_by_file_and_generated(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\nsecond line\n")
    run("kvmweb_init", "--admin", "one", "--password-file", str(path))
    assert User.objects.get(username="one").check_password(PASSWORD)
    told = run("kvmweb_init", "--admin", "two", "--generate")
    assert User.objects.get(username="two").check_password(told.split()[-1])


@pytest.mark.parametrize("argv", [("--admin", "one"), ("--admin", "one", "--password-file", "/no")])
def test_init_without_a_password(argv, monkeypatch) -> None:
    monkeypatch.delenv("KVMWEB_ADMIN_PASSWORD", raising=False)
    with pytest.raises(CommandError):
        run("kvmweb_init", *argv)


def test_init_makes_nobody_an_admin_who_was_not(owner: User) -> None:
    with pytest.raises(CommandError):
        run("kvmweb_init", "--admin", "owner", "--generate")


def test_create_token(admin: User) -> None:
    secret = run("create_token", "admin", "--scopes", "read,admin", "--days", "1").strip()
    token = tokens.authenticate(secret)
    assert token is not None
    assert token.scopes == ["read", "admin"]
    assert token.expires_at is not None


@pytest.mark.parametrize("argv", [("nobody",), ("owner", "--scopes", "admin")])
def test_create_token_refused(argv, owner: User) -> None:
    with pytest.raises(CommandError):
        run("create_token", *argv)
