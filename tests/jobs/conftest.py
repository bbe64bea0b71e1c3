"""A real broker and real workers, private to this run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.conf import settings as site
from kombu import pools

from jobs import hints, reconcile, services
from jobs.models import Job
from tests.jobs import kinds  # noqa: F401 - registers the kinds in this process too
from tests.servers import Process, Redis, database_url, wait_for

# Short, but a loaded machine must not lose a lease that nobody took.
LEASE_S = 4
HEARTBEAT_S = 1


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """This process sends its hints to the real Redis."""
    _use_broker(redis.url.replace("unix://", "redis+socket://"))
    monkeypatch.setattr(hints, "_away_until", 0.0)
    yield redis
    _use_broker(site.CELERY_BROKER_URL)


def _use_broker(url: str) -> None:
    current_app.conf.broker_url = url
    current_app.conf.broker_read_url = current_app.conf.broker_write_url = url
    pools.reset()
    current_app._pool = None  # Celery has no public way to change brokers
    current_app.amqp._producer_pool = None


@pytest.fixture
def failpoints(tmp_path: Path) -> Path:
    path = tmp_path / "failpoints"
    path.write_text("")
    return path


StartWorker = Callable[..., Process]


@pytest.fixture
def start_worker(
    transactional_db: None, broker: Redis, failpoints: Path, tmp_path: Path
) -> Iterator[StartWorker]:
    """Start a Celery worker on this test's database, queue, failpoints; ready on return."""
    started: list[Process] = []

    def start(
        *,
        queues: str = "quick,bulk",
        children: int = 2,
        app: str = "tests.jobs.worker",
        **env: str,
    ) -> Process:
        name = f"w{len(started)}"
        log = tmp_path / f"{name}.log"
        argv = ["-m", "celery", "-A", app, "worker", "-Q", queues]
        argv += ["-c", str(children), "-n", f"{name}@test", "-l", "info", "--without-gossip"]
        process = Process(
            *argv,
            env={
                "DJANGO_SETTINGS_MODULE": "kvmweb.settings.test",
                "KVMWEB_VAR": str(tmp_path),
                "KVMWEB_DATABASE_URL": database_url(),
                "KVMWEB_REDIS_URL": broker.url,
                "KVMWEB_FAILPOINTS_FILE": str(failpoints),
                "KVMWEB_JOB_LEASE_S": str(LEASE_S),
                "KVMWEB_JOB_HEARTBEAT_S": str(HEARTBEAT_S),
                **env,
            },
            log=log,
        )
        started.append(process)
        wait_for(
            lambda: "ready." in log.read_text() or not process.alive(),
            f"{name} is ready",
            timeout_s=120,
        )
        assert process.alive(), log.read_text()
        return process

    yield start
    for process in started:
        process.kill()
    # What a person debugging needs; pytest shows it for failed tests only.
    for process in started:
        sys.stdout.write(process.log.read_text()[-6000:])


@pytest.fixture
def enqueue(tmp_path: Path) -> Callable[..., Job]:
    """``enqueue("test.files")`` with a directory of its own for the effects."""

    def add(kind: str, *, params: dict[str, Any] | None = None, **more: Any) -> Job:
        number = Job.objects.count()
        directory = tmp_path / f"effects-{number}"
        directory.mkdir()
        more = {"actor": None, "target_name": kind} | more
        return services.enqueue(kind, params={"dir": str(directory)} | (params or {}), **more)

    return add


def directory(job: Job) -> Path:
    return Path(job.params["dir"])


def state(job: Job) -> str:
    job.refresh_from_db()
    return job.state


def settle(*jobs: Job, timeout_s: float = 60) -> None:
    """Until all are final, with the reconciler as beat would run it, only oftener."""

    def all_over() -> bool:
        reconcile.run()
        return all(state(job) in Job.FINAL_STATES for job in jobs)

    wait_for(
        all_over,
        f"{[(job.kind, state(job)) for job in jobs]} are final",
        timeout_s=timeout_s,
        every_s=0.5,
    )
