"""Admins make, change and find people and teams; nobody else gets near."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from accounts.models import Membership, SSHKey, Team, User
from tests.accounts.test_sshkeys import ED25519

ADMIN_PAGES = [
    "/admin/users/",
    "/admin/users/new/",
    "/admin/users/{owner}/",
    "/admin/teams/",
    "/admin/teams/{team}/",
    "/admin/limits/",
]


@pytest.mark.parametrize("page", ADMIN_PAGES)
def test_only_admins(page: str, browser, owner: User, team: Team, admin: User, client) -> None:
    url = page.format(owner=owner.pk, team=team.pk)
    assert browser(admin).get(url).status_code == 200
    assert browser(owner).get(url).status_code == 403
    assert client.get(url).status_code == 302


def test_make_a_person_who_can_sign_in(browser, admin: User, client: Client) -> None:
    answer = browser(admin).post(
        "/admin/users/new/", {"username": "frodo", "email": "frodo@example.test"}
    )
    shown = re.search(r'data-copy="([^"]+)"', answer.content.decode())
    assert shown, "the generated password is shown"
    client.post("/accounts/login/", {"login": "frodo", "password": shown[1]})
    assert client.get("/profile/").status_code == 200
    team = User.objects.get(username="frodo").personal_team
    assert team.memberships.get().role == "manager"
    again = browser(admin).get(f"/admin/users/{team.personal_of_id}/")
    assert shown[1] not in again.content.decode()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"username": "owner"}, "is taken"),
        ({"username": "OWNER"}, "is taken"),
        ({"username": "a b"}, "no spaces"),
        ({"username": "x", "email": "Owner@Example.test"}, "this e-mail address already"),
    ],
)
def test_a_person_who_cannot_be(values, text: str, browser, admin: User, owner: User) -> None:
    answer = browser(admin).post("/admin/users/new/", values)
    assert answer.status_code == 422
    assert text in answer.content.decode()
    assert User.objects.count() == 2


def test_find(browser, admin: User, owner: User, outsider: User) -> None:
    text = browser(admin).get("/admin/users/?q=owner&part=rows").content.decode()
    assert "owner@example.test" in text
    assert "outsider" not in text
    assert "<html" not in text


def test_list_has_a_bounded_number_of_queries(
    browser, admin: User, make_user, django_assert_max_num_queries
) -> None:
    for n in range(30):
        make_user(f"u{n}")
    page = browser(admin)
    with django_assert_max_num_queries(14):
        page.get("/admin/users/")


def test_deactivate_and_back(browser, admin: User, owner: User) -> None:
    url = f"/admin/users/{owner.pk}/active/"
    browser(admin).post(url, {"active": "0"})
    owner.refresh_from_db()
    assert not owner.is_active
    browser(admin).post(url, {"active": "1"})
    owner.refresh_from_db()
    assert owner.is_active


def test_not_oneself_and_not_the_last_admin(browser, admin: User, make_user) -> None:
    page = browser(admin)
    answer = page.post(f"/admin/users/{admin.pk}/active/", {"active": "0"})
    assert answer.status_code == 409
    assert "your own account" in answer.content.decode()
    other = make_user("second", is_staff=True)
    assert page.post(f"/admin/users/{other.pk}/admin/", {"admin": "0"}).status_code == 302
    other.refresh_from_db()
    assert not other.is_staff


def test_no_change_by_get(browser, admin: User, owner: User) -> None:
    for action in ("active", "admin", "password"):
        assert browser(admin).get(f"/admin/users/{owner.pk}/{action}/").status_code == 405


def test_make_a_team(browser, admin: User, owner: User) -> None:
    answer = browser(admin).post("/admin/teams/", {"name": "mordor", "manager": "owner"})
    assert answer.status_code == 302
    assert Membership.objects.get(team__name="mordor").user == owner
    again = browser(admin).post("/admin/teams/", {"name": "mordor", "manager": "owner"})
    assert again.status_code == 422


def test_profile_keys_and_tokens(browser, owner: User, outsider: User) -> None:
    page = browser(owner)
    assert page.post("/profile/keys/", {"public_key": ED25519}).status_code == 302
    assert "SHA256:" in page.get("/profile/").content.decode()
    refused = page.post("/profile/keys/", {"public_key": "nonsense"})
    assert refused.status_code == 422
    assert "ssh-ed25519" in refused.content.decode()
    made = page.post("/profile/tokens/", {"name": "ci", "scopes": ["read"], "days": "30"})
    secret = re.search(r"kvmw_[\w-]{20,}", made.content.decode())
    assert secret
    assert secret[0] not in page.get("/profile/").content.decode()
    assert "no-store" in made["Cache-Control"]
    key = SSHKey.objects.get()
    assert browser(outsider).post(f"/profile/keys/{key.pk}/remove/").status_code == 404
    assert page.post(f"/profile/keys/{key.pk}/remove/").status_code == 302


def test_profile_offers_no_admin_scope_to_others(browser, owner: User, admin: User) -> None:
    page = browser(owner)
    assert 'value="admin"' not in page.get("/profile/").content.decode()
    assert page.post("/profile/tokens/", {"name": "x", "scopes": ["admin"]}).status_code == 422


def test_preferences(browser, owner: User) -> None:
    browser(owner).post("/profile/preferences/", {"language": "zh-hans", "theme": "dark"})
    owner.refresh_from_db()
    assert (owner.language, owner.theme) == ("zh-hans", "dark")
