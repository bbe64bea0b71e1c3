"""However often a job is delivered, whoever fights for it, whatever the clocks say."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.utils import timezone

from jobs import claims, engine, hints
from jobs.errors import LeaseLost
from jobs.models import Job, Step
from tests.jobs import kinds
from tests.jobs.conftest import StartWorker, directory, settle, state
from tests.jobs.driving import lose_worker
from tests.servers import ROOT, database_url, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

Enqueue = Callable[..., Job]


@pytest.mark.broker
def test_delivered_twenty_times_it_runs_once(start_worker: StartWorker, enqueue: Enqueue) -> None:
    start_worker(children=4)
    job = enqueue("test.files")
    for _ in range(20):
        hints.send(job.pk, job.queue)
    settle(job)
    assert (state(job), job.attempt) == ("succeeded", 1)
    assert kinds.lines(directory(job)) == ["do one", "do two", "do three"]


def test_eight_processes_fight_for_two_hundred_jobs(enqueue: Enqueue, tmp_path: Path) -> None:
    jobs = [enqueue("test.files") for _ in range(200)]
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "kvmweb.settings.test",
        "KVMWEB_VAR": str(tmp_path),
        "KVMWEB_DATABASE_URL": database_url(),
        "KVMWEB_LOG_LEVEL": "WARNING",
    }
    fighters = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.fighter"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=env,
            text=True,
        )
        for _ in range(8)
    ]
    orders = [random.sample(jobs, len(jobs)) for _ in fighters]
    threads = [
        threading.Thread(target=fighter.communicate, args=("\n".join(str(j.pk) for j in order),))
        for fighter, order in zip(fighters, orders, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [fighter.returncode for fighter in fighters] == [0] * 8
    for job in jobs:
        assert (state(job), job.attempt) == ("succeeded", 1)
        assert kinds.lines(directory(job)) == ["do one", "do two", "do three"]


def test_an_older_attempt_writes_nothing(enqueue: Enqueue) -> None:
    job = enqueue("test.files")
    first = claims.claim(job.pk)
    assert first
    lose_worker(job)
    second = claims.claim(job.pk)
    assert second
    assert second.attempt == first.attempt + 1
    with pytest.raises(LeaseLost), first.write(progress=0.5):
        Step.objects.filter(job=job).update(state=Step.State.DONE)
    job.refresh_from_db()
    assert job.progress is None
    assert not job.steps.exclude(state="pending").exists()
    with second.write(progress=0.7):
        pass


def test_a_claimed_job_is_nobody_elses(enqueue: Enqueue) -> None:
    job = enqueue("test.files")
    assert claims.claim(job.pk)
    assert claims.claim(job.pk) is None


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_workers_clock_decides_nothing(
    enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real, real_time = timezone.now, time.time
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(hours=hours))
    monkeypatch.setattr(time, "time", lambda: real_time() + hours * 3600)
    job = enqueue("test.waits")
    engine.run(job.pk)
    assert not engine.run(job.pk)  # parked for ten minutes of the database's clock
    job.refresh_from_db()
    assert job.lease_until
    assert job.deadline
    assert abs((job.lease_until - real()).total_seconds() - 600) < 30
    assert job.state == "running"


def test_a_taken_job_stops_its_program(enqueue: Enqueue, settings: pytest.FixtureRequest) -> None:
    settings.JOB_LEASE_S, settings.JOB_HEARTBEAT_S = 3, 1  # type: ignore[attr-defined]
    job = enqueue("test.sleeps")
    worker = _in_background(job)
    pid_file = directory(job) / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), "the program runs")
    pid = pid_file.read_text().strip()
    Job.objects.filter(pk=job.pk).update(attempt=99)
    worker.join(10)
    assert not worker.is_alive()
    assert not Path(f"/proc/{pid}").exists()
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("running", 99)  # the other one's, untouched


def test_a_worker_that_cannot_renew_stops_before_its_lease_ends(
    enqueue: Enqueue, settings: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.JOB_LEASE_S, settings.JOB_HEARTBEAT_S = 4, 1  # type: ignore[attr-defined]
    hangs = threading.Event()

    def hang(_held: claims.Claim) -> bool:
        hangs.wait(60)  # a database that does not answer
        return False

    monkeypatch.setattr(claims, "renew", hang)
    job = enqueue("test.sleeps")
    started = time.monotonic()
    worker = _in_background(job)
    worker.join(20)
    hangs.set()
    assert not worker.is_alive()
    assert time.monotonic() - started < 4
    job.refresh_from_db()
    assert job.state == "running"  # left as it is, for the next claim
    assert kinds.effects(directory(job)) == {"effect-one"}


def test_a_lease_lives_as_long_as_its_worker(
    enqueue: Enqueue, settings: pytest.FixtureRequest, owner: object
) -> None:
    settings.JOB_LEASE_S, settings.JOB_HEARTBEAT_S = 2, 1  # type: ignore[attr-defined]
    job = enqueue("test.sleeps")
    worker = _in_background(job)
    wait_for(lambda: "sleeping" in kinds.lines(directory(job)), "the program runs")
    over = time.monotonic() + 4  # twice the lease
    while time.monotonic() < over:
        assert claims.claim(job.pk) is None
        threading.Event().wait(0.2)
    from jobs import services

    services.cancel(job, actor=None)
    worker.join(10)
    assert state(job) == "cancelled"


def test_the_hint_goes_with_the_commit(enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(hints, "send", lambda job_id, *_a, **_k: sent.append(str(job_id)))
    with transaction.atomic():
        job = enqueue("test.files")
        assert sent == []
    assert sent == [str(job.pk)]


def _in_background(job: Job) -> threading.Thread:
    def work() -> None:
        try:
            engine.run(job.pk)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread
