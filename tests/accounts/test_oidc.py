"""Sign-in by an OpenID Connect provider, with its groups: against a small one of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from django.test import Client

from accounts.models import AuditEntry, Membership, Team, User
from vms.models import VM

pytestmark = pytest.mark.django_db


class Provider(ThreadingHTTPServer):
    """Discovery, token and user info; ``claims`` are of who signs in."""

    claims: dict[str, Any]
    asked: list[dict[str, list[str]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        url = self.server.url
        if self.path.endswith("/.well-known/openid-configuration"):
            paths = {
                "authorization_endpoint": "/authorize",
                "token_endpoint": "/token",
                "userinfo_endpoint": "/userinfo",
                "jwks_uri": "/keys",
            }
            self.answer({"issuer": url} | {name: url + path for name, path in paths.items()})
        else:
            self.answer(self.server.claims)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(parse_qs(body))
        token = {"iss": self.server.url, "aud": "kvmweb", "exp": 4_000_000_000, "iat": 1}
        signed = jwt.encode(token | self.server.claims, "k" * 32, "HS256")
        self.answer({"access_token": "a", "token_type": "Bearer", "id_token": signed})

    def answer(self, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def provider(settings: Any) -> Iterator[Provider]:
    server = Provider(("127.0.0.1", 0), Answers)
    server.asked = []
    server.claims = {
        "sub": "42",
        "preferred_username": "frodo",
        "email": "frodo@shire.test",
        "name": "Frodo Baggins",
        "groups": ["ring-bearers"],
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings.OIDC = [
        {
            "id": "fake",
            "name": "The Shire",
            "server_url": server.url,
            "admin_group": "wizards",
            "teams": [
                {"group": "council", "team": "rivendell", "role": "manager"},
                {"group": "ring-bearers", "team": "rivendell", "role": "member"},
            ],
        }
    ]
    settings.SOCIALACCOUNT_PROVIDERS = {
        "openid_connect": {
            "OAUTH_PKCE_ENABLED": True,
            "APPS": [
                {
                    "provider_id": "fake",
                    "name": "The Shire",
                    "client_id": "kvmweb",
                    "secret": "hush",
                    "settings": {"server_url": server.url},
                }
            ],
        }
    }
    yield server
    server.shutdown()
    server.server_close()


def sign_in(client: Client, *, state: str = "") -> Any:
    gone = client.post("/accounts/oidc/fake/login/")
    assert gone.status_code == 302
    asked = parse_qs(urlsplit(gone["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    back = {"code": "c", "state": state or asked["state"][0]}
    return client.get("/accounts/oidc/fake/login/callback/", back)


def role(team: Team, username: str) -> str | None:
    row = Membership.objects.filter(team=team, user__username=username).first()
    return row.role if row else None


def test_somebody_new_signs_in_with_their_groups(provider: Provider, team: Team) -> None:
    client = Client()
    page = client.get("/accounts/login/")
    assert "Sign in with The Shire" in page.content.decode()
    assert f"form-action 'self' {provider.url}" in page["Content-Security-Policy"]
    assert sign_in(client).status_code == 302
    assert "code_verifier" in provider.asked[0]
    user = User.objects.get(username="frodo")
    assert not user.has_usable_password()
    assert Team.objects.filter(personal_of=user).exists()
    assert role(team, "frodo") == "member"
    assert not user.is_staff
    assert client.get("/profile/").status_code == 200
    verbs = set(AuditEntry.objects.values_list("verb", flat=True))
    assert {"user.sign_up", "user.sign_in", "team.by_groups"} <= verbs


def test_changed_groups_change_roles_at_the_next_sign_in(
    provider: Provider, team: Team, owner: User, admin: User, make_vm: Any
) -> None:
    sign_in(Client())
    user = User.objects.get(username="frodo")
    machine: VM = make_vm(user, team)
    provider.claims["groups"] = ["council", "wizards"]
    sign_in(Client())
    user.refresh_from_db()
    assert (role(team, "frodo"), user.is_staff) == ("manager", True)
    provider.claims["groups"] = []
    sign_in(Client())
    user.refresh_from_db()
    machine.refresh_from_db()
    assert (role(team, "frodo"), user.is_staff) == (None, False)
    assert machine.owner == owner
    assert role(team, "teammate") == "member", "who signs in otherwise is left alone"


def test_nobody_is_taken_over_by_an_address(provider: Provider, owner: User, team: Team) -> None:
    provider.claims["email"] = owner.email
    provider.claims["preferred_username"] = "owner"
    client = Client()
    sign_in(client)
    assert client.session.get("_auth_user_id") != str(owner.pk)
    assert role(team, "owner") == "manager"


def test_a_forged_state_and_a_deactivated_person_are_refused(
    provider: Provider, team: Team
) -> None:
    client = Client()
    sign_in(client, state="forged")
    assert "_auth_user_id" not in client.session
    sign_in(Client())
    User.objects.filter(username="frodo").update(is_active=False)
    client = Client()
    sign_in(client)
    assert "_auth_user_id" not in client.session


def test_sign_up_can_be_closed(provider: Provider, settings: Any) -> None:
    settings.OIDC[0]["sign_up"] = False
    sign_in(Client())
    assert not User.objects.filter(username="frodo").exists()
