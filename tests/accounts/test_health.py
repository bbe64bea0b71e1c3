"""What a supervisor, a load balancer and Prometheus are told."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts import pulse
from accounts.models import User

pytestmark = pytest.mark.django_db


def test_alive(client: Client) -> None:
    assert client.get("/healthz").content == b"ok\n"


def test_ready(client: Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": {"database": "ok", "migrations": "ok", "redis": "ok"},
    }


def test_waits_for_the_processes_that_are_wanted(client: Client, settings) -> None:
    settings.READY_REQUIRES = ["worker", "watch"]
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["worker"] == "not heard yet"
    pulse.beat("worker")
    pulse.beat("watch")
    assert client.get("/readyz").status_code == 200
    cache.set("pulse:watch", 0)
    assert client.get("/readyz").json()["checks"]["watch"].startswith("silent for")


def test_says_that_redis_is_away(client: Client, monkeypatch) -> None:
    def away(*_args, **_kwargs):
        raise RedisConnectionError("no socket")

    monkeypatch.setattr(cache, "set", away)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["redis"] == "unreachable"


def test_metrics_are_for_admins(client: Client, api, owner: User, admin: User, vm) -> None:
    assert client.get("/metrics").status_code == 401
    for person, scopes, status in (
        (owner, ("read", "write"), 403),
        (admin, ("read",), 403),
        (admin, ("admin",), 200),
    ):
        headers = {"Authorization": f"Bearer {api(person, scopes).secret}"}
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == status
    text = answer.content.decode()
    assert 'kvmweb_machines{state="running"} 1.0' in text
    assert 'kvmweb_hosts{reach="up"} 1.0' in text
    assert 'kvmweb_jobs{state="queued"} 0.0' in text
