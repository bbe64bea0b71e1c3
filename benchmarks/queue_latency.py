"""From the request to the first line of work: a job of ours against a bare Celery task.

    .venv/bin/python -m benchmarks.queue_latency [--rounds 200] [--database URL]

Both go through the same Redis and the same worker process. Ours is told twice: from the commit
that queues the job (the hint, the claim, the first step's ``do``), which the goal is about, and
from before ``enqueue``, with the rows that it writes. Prints JSON; goal: ratio at most 2.
The two take turns within a round, so both see the same load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

GOAL_RATIO = 2.0
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--database", default="", help="default: SQLite in a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvmweb-bench-") as folder:
        print(json.dumps(measure(Path(folder), asked.rounds, asked.database), indent=2))


def measure(folder: Path, rounds: int, database: str) -> dict[str, object]:
    from tests.servers import Process, Redis, wait_for

    redis = Redis(folder / "redis")
    redis.start()
    database = database or f"sqlite:///{folder / 'bench.sqlite3'}"
    env = {
        "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
        "KVMWEB_VAR": str(folder),
        "KVMWEB_DATABASE_URL": database,
        "KVMWEB_REDIS_URL": redis.url,
        "KVMWEB_SECRET_KEY": "bench",
        "KVMWEB_LOG_LEVEL": "WARNING",
    }
    os.environ.update(env)
    _set_up()
    argv = ["-m", "celery", "-A", "benchmarks.queue_worker", "worker", "-Q", "quick", "-c", "1"]
    worker = Process(*argv, "-l", "info", "--without-gossip", env=env, log=folder / "log")
    try:
        wait_for(lambda: "ready." in (folder / "log").read_text(), "the worker is ready")
        return _rounds(rounds, database)
    finally:
        worker.kill()
        redis.stop()


def _set_up() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def _rounds(rounds: int, database: str) -> dict[str, object]:
    from django.conf import settings
    from django.db import transaction
    from redis import Redis as Client

    from benchmarks.queue_worker import CHANNEL, bare, register
    from jobs import services
    from jobs.models import Job

    register()
    client = Client.from_url(settings.REDIS_URL)

    def wait() -> float:
        answer = client.blpop([CHANNEL], timeout=30)
        if answer is None:
            raise SystemExit("the worker did not answer within 30 s")
        return float(answer[1])

    def one_bare() -> float:
        started = time.monotonic()
        bare.apply_async(queue="quick", ignore_result=True)
        return wait() - started

    def one_job() -> tuple[float, float]:
        queued: list[float] = []
        started = time.monotonic()
        with transaction.atomic():
            transaction.on_commit(lambda: queued.append(time.monotonic()))
            job = services.enqueue("bench.first_step", actor=None, target_name="bench")
        began = wait()
        while not Job.objects.filter(pk=job.pk, state=Job.State.SUCCEEDED).exists():
            time.sleep(0.005)  # its end is not the next round's beginning
        return began - queued[0], began - started

    times: dict[str, list[float]] = {"bare": [], "job": [], "job_with_its_rows": []}
    for number in range(rounds + WARM_UP):
        bare_s = one_bare()
        job_s, whole_s = one_job()
        time.sleep(0.01)
        if number >= WARM_UP:
            for name, seconds in zip(times, (bare_s, job_s, whole_s), strict=True):
                times[name].append(seconds * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["job"] / medians["bare"]
    return {
        "benchmark": "queue_latency",
        "database": database.partition(":")[0],
        "rounds": rounds,
        "bare_ms": _summary(times["bare"]),
        "job_ms": _summary(times["job"]),
        "job_with_its_rows_ms": _summary(times["job_with_its_rows"]),
        "ratio": round(ratio, 2),
        "ratio_with_its_rows": round(medians["job_with_its_rows"] / medians["bare"], 2),
        "goal_ratio": GOAL_RATIO,
        "met": ratio <= GOAL_RATIO,
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "p95": round(statistics.quantiles(values, n=20)[-1], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
