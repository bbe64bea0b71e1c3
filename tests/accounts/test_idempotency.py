"""The same POST twice has one effect and one answer."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from accounts.models import AuditEntry, IdempotentAnswer, Team, User


def test_repeated(api, admin: User) -> None:
    speaker = api(admin)
    first = speaker.post("/teams", {"name": "isengard"}, key="k-1")
    again = speaker.post("/teams", {"name": "isengard"}, key="k-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again["Idempotent-Replayed"] == "true"
    assert Team.objects.filter(name="isengard").count() == 1
    assert AuditEntry.objects.filter(verb="team.create").count() == 1


def test_another_body_with_the_same_key(api, admin: User) -> None:
    speaker = api(admin)
    speaker.post("/teams", {"name": "isengard"}, key="k-1")
    answer = speaker.post("/teams", {"name": "mordor"}, key="k-1")
    assert answer.status_code == 422
    assert answer.json()["code"] == "api.idempotency_key_reused"
    assert not Team.objects.filter(name="mordor").exists()


def test_another_path_with_the_same_key(api, admin: User, team) -> None:
    speaker = api(admin)
    speaker.post("/teams", {"name": "isengard"}, key="k-1")
    answer = speaker.post(f"/teams/{team.pk}/members", {"username": "admin"}, key="k-1")
    assert answer.json()["code"] == "api.idempotency_key_reused"


def test_keys_are_each_persons_own(api, admin: User, make_user) -> None:
    other = make_user("other-admin", is_staff=True)
    assert api(admin).post("/teams", {"name": "isengard"}, key="k").status_code == 201
    assert api(other).post("/teams", {"name": "mordor"}, key="k").status_code == 201


def test_a_refused_request_may_be_repeated_right(api, admin: User) -> None:
    speaker = api(admin)
    assert speaker.post("/teams", {"name": ""}, key="k-1").status_code == 422
    assert speaker.post("/teams", {"name": "isengard"}, key="k-1").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 129, "a b", "ключ"])
def test_keys_that_are_none(key: str, api, admin: User) -> None:
    answer = api(admin).post("/teams", {"name": "isengard"}, key=key)
    assert answer.status_code == 422
    assert answer.json()["code"] == "api.idempotency_key_invalid"
    assert not Team.objects.filter(name="isengard").exists()


def test_no_replay_for_a_revoked_token(api, admin: User) -> None:
    speaker = api(admin)
    speaker.post("/teams", {"name": "isengard"}, key="k-1")
    admin.api_tokens.all().delete()
    assert speaker.post("/teams", {"name": "isengard"}, key="k-1").status_code == 401


@pytest.mark.django_db(transaction=True)
def test_eight_at_once(api, admin: User) -> None:
    speakers = [api(admin) for _ in range(8)]
    gate = threading.Barrier(len(speakers))
    answers: list[tuple[int, int]] = []

    def send(speaker) -> None:
        gate.wait()
        answer = speaker.post("/teams", {"name": "isengard"}, key="one")
        answers.append((answer.status_code, answer.json().get("id", 0)))
        connection.close()

    threads = [threading.Thread(target=send, args=(speaker,)) for speaker in speakers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    team = Team.objects.get(name="isengard")
    assert answers == [(201, team.pk)] * 8
    assert IdempotentAnswer.objects.count() == 1
