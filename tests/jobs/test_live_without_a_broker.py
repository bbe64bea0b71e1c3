"""Redis away, back, or back empty: requests succeed, and every job is run in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import hints, live, reconcile
from jobs.models import Job
from tests.jobs import kinds
from tests.jobs.conftest import StartWorker, directory, settle, state
from tests.servers import Process, Redis, database_url, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.django_db(transaction=True)]

Enqueue = Callable[..., Job]


def test_a_request_succeeds_at_once_while_the_broker_is_away(
    broker: Redis, enqueue: Enqueue
) -> None:
    broker.kill()
    started = time.monotonic()
    job = enqueue("test.files")
    enqueue("test.files")
    assert time.monotonic() - started < 2
    assert state(job) == "queued"


def test_workers_go_on_when_the_broker_comes_back_empty(
    broker: Redis, start_worker: StartWorker, enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker()
    before = enqueue("test.files")
    settle(before)
    broker.kill()
    lost = [enqueue("test.files"), enqueue("test.bulk")]
    broker.start()
    monkeypatch.setattr(hints, "_away_until", 0.0)
    settle(*lost)
    assert [state(job) for job in lost] == ["succeeded", "succeeded"]
    after = enqueue("test.files")  # and its hint arrives by itself again
    wait_for(lambda: state(after) == "succeeded", "the next job runs without the reconciler")


def test_hints_lost_in_the_broker_are_sent_again(
    broker: Redis, start_worker: StartWorker, enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "LONGEST_COUNTDOWN_S", 0)
    jobs = [enqueue("test.files") for _ in range(5)]
    broker.kill()
    broker.start()  # all five hints are gone
    start_worker()
    settle(*jobs)
    assert {state(job) for job in jobs} == {"succeeded"}


def test_waiting_behind_copies_does_not_fill_the_queue(broker: Redis, enqueue: Enqueue) -> None:
    jobs = [enqueue("test.files") for _ in range(12)]
    Job.objects.update(created_at="2026-01-01T00:00:00Z")
    for _ in range(5):
        reconcile.run()
    assert reconcile._hints_in("quick") == len(jobs)


def test_two_reconcilers_at_once_are_one(enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def part() -> None:
        if not seen:
            seen.append(True)
            seen.append(reconcile.run())  # the other one comes while the first is at it

    monkeypatch.setattr(reconcile, "_parts", [part])
    assert reconcile.run()
    assert seen == [True, False]
    assert reconcile.run()  # and the lock is free again


def test_a_part_that_breaks_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def breaks() -> None:
        raise RuntimeError("another app's fault")

    monkeypatch.setattr(reconcile, "_parts", [breaks, lambda: seen.append("ran")])
    reconcile.run()
    assert seen == ["ran"]


def test_nudges_are_dropped_quietly_without_redis(
    settings: pytest.FixtureRequest, tmp_path: object
) -> None:
    settings.CHANNEL_LAYERS = {  # type: ignore[attr-defined]
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [f"unix://{tmp_path}/nobody.sock"]},
        }
    }
    started = time.monotonic()
    for number in range(1000):
        live.publish("vm", number, groups=["admins"])
    assert time.monotonic() - started < 1


def test_quick_work_does_not_wait_behind_copies(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: object
) -> None:
    start_worker(queues="bulk", children=1)
    start_worker(queues="quick", children=1)
    copies = [enqueue("test.sleeps", queue="bulk") for _ in range(3)]
    wait_for(lambda: kinds.lines(directory(copies[0])), "a copy is under way")
    start = enqueue("test.files")
    wait_for(lambda: state(start) == "succeeded", "the start is done", timeout_s=5)
    assert state(copies[0]) == "running"
    assert state(copies[2]) == "queued"


def test_beat_and_a_worker_find_what_was_lost_by_themselves(
    broker: Redis,
    start_worker: StartWorker,
    enqueue: Enqueue,
    tmp_path: Path,
) -> None:
    start_worker()
    beat = Process(
        *("-m", "celery", "-A", "kvmweb.beat", "beat", "-l", "info"),
        env={
            "KVMWEB_VAR": str(tmp_path),
            "KVMWEB_DATABASE_URL": database_url(),
            "KVMWEB_REDIS_URL": broker.url,
        },
        log=tmp_path / "beat.log",
    )
    try:
        wait_for(lambda: "beat: Starting" in beat.log.read_text(), "beat runs", timeout_s=60)
        broker.kill()
        job = enqueue("test.files")
        broker.start()
        wait_for(lambda: state(job) == "succeeded", "the job is found and run", timeout_s=90)
        assert beat.alive()
    finally:
        beat.kill()
