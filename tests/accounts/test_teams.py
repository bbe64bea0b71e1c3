"""Who may change a team, and what cannot be changed."""

from __future__ import annotations

from accounts import revocations
from accounts.models import Membership, Team, User


def role(team: Team, user: User) -> str | None:
    row = Membership.objects.filter(team=team, user=user).first()
    return row.role if row else None


def test_manager_takes_in_and_lets_go(api, owner: User, outsider: User, team: Team) -> None:
    speaker = api(owner)
    url = f"/teams/{team.pk}/members"
    assert speaker.post(url, {"username": "outsider"}).json()["role"] == "member"
    assert speaker.post(url, {"username": "outsider", "role": "viewer"}).status_code == 200
    assert role(team, outsider) == "viewer"
    assert speaker.delete(f"{url}/{outsider.pk}").status_code == 204
    assert role(team, outsider) is None


def test_others_may_not(api, teammate: User, outsider: User, owner: User, team: Team) -> None:
    url = f"/teams/{team.pk}/members"
    assert api(teammate).post(url, {"username": "outsider"}).status_code == 403
    assert api(outsider).post(url, {"username": "outsider"}).status_code == 404
    assert api(teammate).delete(f"{url}/{owner.pk}").status_code == 403
    assert api(outsider).delete(f"{url}/{outsider.pk}").status_code == 404
    assert api(teammate).patch(f"/teams/{team.pk}", {"name": "x"}).status_code == 403


def test_a_member_may_leave(api, teammate: User, team: Team) -> None:
    assert api(teammate).delete(f"/teams/{team.pk}/members/{teammate.pk}").status_code == 204


def test_leaving_ends_what_was_open(
    api, owner: User, teammate: User, team: Team, monkeypatch, django_capture_on_commit_callbacks
) -> None:
    told: list[revocations.Revocation] = []
    monkeypatch.setattr(revocations, "_callbacks", [told.append])
    with django_capture_on_commit_callbacks(execute=True):
        api(owner).delete(f"/teams/{team.pk}/members/{teammate.pk}")
    assert [(one.user_id, one.team_id) for one in told] == [(teammate.pk, team.pk)]


def test_the_last_manager_stays(api, owner: User, team: Team) -> None:
    speaker, url = api(owner), f"/teams/{team.pk}/members"
    assert speaker.delete(f"{url}/{owner.pk}").json()["code"] == "team.last_manager"
    demoted = speaker.post(url, {"username": "owner", "role": "viewer"})
    assert demoted.json()["code"] == "team.last_manager"
    assert role(team, owner) == "manager"


def test_a_personal_team_is_fixed(api, owner: User, outsider: User) -> None:
    own = owner.personal_team
    speaker = api(owner)
    refused = speaker.post(f"/teams/{own.pk}/members", {"username": "outsider"})
    assert refused.json()["code"] == "team.personal_fixed"
    assert speaker.patch(f"/teams/{own.pk}", {"name": "mine"}).status_code == 409
    assert api(outsider).get(f"/teams/{own.pk}").status_code == 404


def test_only_admins_make_teams_and_set_limits(api, owner: User, admin: User, team: Team) -> None:
    assert api(owner).post("/teams", {"name": "x"}).status_code == 403
    assert api(owner).patch(f"/teams/{team.pk}/limits", {"vcpus": 99}).status_code == 403
    answer = api(admin).patch(f"/teams/{team.pk}/limits", {"vcpus": 99, "machines": 0})
    assert answer.json()["limits"] == {"vcpus": 99, "machines": 0}
    answer = api(admin).patch(f"/teams/{team.pk}/limits", {"vcpus": None})
    assert answer.json()["limits"] == {"machines": 0}
    wrong = api(admin).patch(f"/teams/{team.pk}/limits", {"vcpus": -5})
    assert wrong.json()["errors"][0]["field"] == "vcpus"


def test_quota_over_the_api(api, owner: User, team: Team) -> None:
    speaker = api(owner)
    body = speaker.get("/quota?team=rivendell").json()
    assert body["team"] == "rivendell"
    assert {row["resource"]: row["hard"] for row in body["resources"]}["machines"] == 10
    assert speaker.get("/quota").json()["team"] == "owner"
    check = speaker.post("/quota/check", {"team": "rivendell", "vcpus": 20}).json()
    assert check["fits"] is False
    assert check["resources"] == [
        {
            "resource": "vcpus",
            "used": 0,
            "asked": 20,
            "after": 20,
            "hard": 16,
            "scope": "site",
            "missing": 4,
        }
    ]


def test_anothers_quota_does_not_exist(api, outsider: User, team: Team) -> None:
    assert api(outsider).get("/quota?team=rivendell").status_code == 404
    assert api(outsider).post("/quota/check", {"team": team.pk, "vcpus": 1}).status_code == 404
