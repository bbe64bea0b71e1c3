"""Who the API lets in: tokens, scopes, sessions, limits; and how it says no."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts import apiauth, services, tokens
from accounts.models import ApiToken, User


def test_without_anything(client: Client, db) -> None:
    answer = client.get("/api/v1/me")
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "sign_in_needed"


def test_me(api, owner: User, team) -> None:
    body = api(owner).get("/me").json()
    assert body["username"] == "owner"
    assert {(row["name"], row["role"]) for row in body["teams"]} == {
        ("owner", "manager"),
        ("rivendell", "manager"),
    }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: ApiToken.objects.filter(pk=token.pk).update(revoked_at=timezone.now()),
        lambda token: ApiToken.objects.filter(pk=token.pk).update(
            expires_at=timezone.now() - timedelta(seconds=1)
        ),
        lambda token: User.objects.filter(pk=token.user_id).update(is_active=False),
    ],
    ids=["revoked", "expired", "deactivated"],
)
def test_a_token_that_has_ended(spoil, owner: User, client: Client) -> None:
    token, secret = tokens.issue(owner, "t", ["read"], None)
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    spoil(token)
    assert client.get("/api/v1/me", headers=headers).status_code == 401


def test_a_bad_token_is_not_replaced_by_the_session(browser, owner: User) -> None:
    answer = browser(owner).get("/api/v1/me", headers={"Authorization": "Bearer kvmw_no"})
    assert answer.status_code == 401


def test_scopes(api, owner: User, admin: User) -> None:
    reader = api(owner, ("read",))
    answer = reader.patch("/me", {"theme": "dark"})
    assert answer.status_code == 403
    assert answer.json()["params"] == {"scope": "write"}
    assert api(owner, ("write",)).get("/me").status_code == 403
    assert api(admin, ("read", "write")).get("/users").json()["params"] == {"scope": "admin"}
    assert api(admin).get("/users").status_code == 200
    assert api(owner).get("/users").status_code == 403


def test_an_admins_everyday_token_sees_what_is_theirs(api, admin: User, team) -> None:
    everyday = api(admin, ("read", "write"))
    assert everyday.get(f"/teams/{team.pk}").status_code == 404
    assert [row["name"] for row in everyday.get("/teams").json()["items"]] == ["admin"]
    assert api(admin).get(f"/teams/{team.pk}").status_code == 200


def test_a_token_hands_on_no_more_than_it_has(api, owner: User) -> None:
    answer = api(owner, ("write",)).post("/me/tokens", {"name": "more", "scopes": ["read"]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "scopes"
    admin_scope = api(owner).post("/me/tokens", {"name": "more", "scopes": ["admin"]})
    assert admin_scope.status_code in (403, 422)


def test_issue_use_revoke(api, owner: User, client: Client) -> None:
    made = api(owner).post("/me/tokens", {"name": "ci", "scopes": ["read"]})
    assert made.status_code == 201
    secret = made.json()["token"]
    assert secret.startswith("kvmw_")
    assert not ApiToken.objects.filter(token_hash__contains=secret[5:]).exists()
    listed = api(owner).get("/me/tokens").json()["items"]
    assert "token" not in listed[0]
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    assert api(owner).delete(f"/me/tokens/{made.json()['id']}").status_code == 204
    assert client.get("/api/v1/me", headers=headers).status_code == 401


def test_somebody_elses_token_does_not_exist(api, owner: User, outsider: User) -> None:
    token, _ = tokens.issue(owner, "t", ["read"], None)
    assert api(outsider).delete(f"/me/tokens/{token.pk}").status_code == 404


def test_last_used_is_noted_once_a_minute(owner: User, django_assert_num_queries) -> None:
    token, secret = tokens.issue(owner, "t", ["read"], None)
    tokens.authenticate(secret)
    token.refresh_from_db()
    assert token.last_used_at is not None
    with django_assert_num_queries(1):
        tokens.authenticate(secret)


def test_session_needs_the_csrf_token(owner: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/api/v1/me").status_code == 200
    answer = client.patch("/api/v1/me", {"theme": "dark"}, content_type="application/json")
    assert answer.status_code == 403
    assert answer.json()["code"] == "csrf_failed"
    client.get("/profile/")
    token = client.cookies["kvmweb_csrf"].value
    answer = client.patch(
        "/api/v1/me",
        {"theme": "dark"},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert answer.status_code == 200
    assert answer.json()["theme"] == "dark"


def test_rate_limit_is_per_token(api, owner: User, settings, monkeypatch) -> None:
    settings.API_RATE_PER_MINUTE = 3
    monkeypatch.setattr(apiauth.time, "time", lambda: 1_800_000_010.0)  # within one minute
    busy, other = api(owner), api(owner)
    assert [busy.get("/me").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = busy.get("/me")
    assert 0 < int(refused["Retry-After"]) <= 60
    assert refused.json()["code"] == "too_many"
    assert other.get("/me").status_code == 200


def test_wrong_input_names_the_fields(api, admin: User) -> None:
    answer = api(admin).post("/users", {"name": "x", "email": 3})
    assert answer.status_code == 422
    body = answer.json()
    assert body["code"] == "invalid"
    assert {(e["field"], e["code"]) for e in body["errors"]} == {
        ("username", "missing"),
        ("email", "string_type"),
        ("name", "extra_forbidden"),
    }
    assert all(e["message"] for e in body["errors"])


def test_no_json(api, owner: User) -> None:
    speaker = api(owner)
    answer = speaker.client.post(
        "/api/v1/me/ssh-keys",
        "{",
        content_type="application/json",
        headers={"Authorization": f"Bearer {speaker.secret}"},
    )
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"


def test_unknown_path_is_a_problem_too(api, owner: User) -> None:
    answer = api(owner).get("/nothing-here")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("query", ["?page=0", "?page_size=201", "?page_size=x"])
def test_pages_that_are_none(query: str, api, owner: User) -> None:
    assert api(owner).get(f"/teams{query}").status_code == 422


def test_pages(api, admin: User, make_user, django_assert_num_queries) -> None:
    for n in range(7):
        make_user(f"u{n}")
    speaker = api(admin)
    first = speaker.get("/users?page_size=5").json()
    second = speaker.get("/users?page_size=5&page=2").json()
    assert (len(first["items"]), len(second["items"]), first["count"]) == (5, 3, 8)
    assert speaker.get("/users?page=99").json() == {"items": [], "count": 8}
    with django_assert_num_queries(3):  # the token, the page, the count
        speaker.get("/users")


def test_openapi(client: Client, db) -> None:
    spec = client.get("/api/v1/openapi.json").json()
    assert spec["openapi"].startswith("3.1")
    assert "/api/v1/me" in spec["paths"]


PROMISED = """
GET /me
GET /images
POST /images
GET /images/{image_id}
PATCH /images/{image_id}
DELETE /images/{image_id}
GET /flavors
POST /flavors
GET /vms
POST /vms
GET /vms/{uuid}
PATCH /vms/{uuid}
DELETE /vms/{uuid}
POST /vms/{uuid}/start
POST /vms/{uuid}/shutdown
POST /vms/{uuid}/force-off
POST /vms/{uuid}/reboot
POST /vms/{uuid}/reset
POST /vms/{uuid}/suspend
POST /vms/{uuid}/resume
POST /vms/{uuid}/console
GET /vms/{uuid}/screenshot
GET /jobs
GET /jobs/{job_id}
POST /jobs/{job_id}/cancel
POST /jobs/{job_id}/retry
GET /hosts
GET /hosts/{host_id}
"""
LISTS = ("/images", "/flavors", "/vms", "/jobs", "/hosts")
FIELDS_OF_A_NEW_MACHINE = """
name image flavor vcpus memory_mib disk_gib network copy user password ssh_keys user_data team start
"""


def test_what_was_promised_is_there(client: Client, db) -> None:
    """Programs of others are written against these words: they may be added to, never changed."""
    spec = client.get("/api/v1/openapi.json").json()
    paths, schemas = spec["paths"], spec["components"]["schemas"]
    for line in PROMISED.split("\n")[1:-1]:
        verb, path = line.split()
        assert verb.lower() in paths[f"/api/v1{path}"], line
    for path in LISTS:
        takes = {one["name"] for one in paths[f"/api/v1{path}"]["get"]["parameters"]}
        assert {"page", "page_size"} <= takes, path
        answer = paths[f"/api/v1{path}"]["get"]["responses"]["200"]["content"]["application/json"]
        page = schemas[answer["schema"]["$ref"].rsplit("/", 1)[-1]]
        assert set(page["properties"]) == {"items", "count"}, path
    machine = paths["/api/v1/vms"]["post"]
    assert "202" in machine["responses"]
    body = machine["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    takes = set(schemas[body.rsplit("/", 1)[-1]]["properties"])
    assert set(FIELDS_OF_A_NEW_MACHINE.split()) <= takes
    assert {"id", "kind", "state", "progress", "step", "error"} == set(
        schemas["JobBrief"]["properties"]
    )


def test_language_of_a_problem(api, owner: User) -> None:
    speaker = api(owner)
    answer = speaker.client.get(
        "/api/v1/teams/999",
        headers={"Authorization": f"Bearer {speaker.secret}", "Accept-Language": "en"},
    )
    assert answer["Content-Language"] == "en"
    assert answer.json()["detail"].startswith("This does not exist")


def test_deactivating_ends_everything(api, browser, owner: User, admin: User) -> None:
    page, speaker = browser(owner), api(owner)
    assert page.get("/profile/").status_code == 200
    services.set_active(actor=admin, user=owner, active=False)
    assert page.get("/profile/").status_code == 302
    assert speaker.get("/me").status_code == 401
    services.set_active(actor=admin, user=owner, active=True)
    assert page.get("/profile/").status_code == 302, "an old session does not come back"
    assert speaker.get("/me").status_code == 401, "nor does an old token"
