"""SIGKILL at every boundary of a step: what was done is done once, or undone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.models import Job
from tests.jobs import kinds
from tests.jobs.conftest import StartWorker, directory, settle, state
from tests.servers import Process, wait_for

pytestmark = pytest.mark.broker

Enqueue = Callable[..., Job]


def test_a_child_killed_anywhere_leaves_each_effect_once(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: Path
) -> None:
    failpoints.write_text(
        "\n".join(f"{name}/{point} kill" for name, point in kinds.KILLED_FORWARD.items())
    )
    start_worker(children=4)
    jobs = [enqueue(name) for name in kinds.KILLED_FORWARD]
    settle(*jobs)
    hits = failpoints.with_name("failpoints.hits").read_text().splitlines()
    assert len(hits) == len(jobs)  # each died at its place
    for job in jobs:
        assert state(job) == "succeeded", job.kind
        assert job.attempt == 2, job.kind
        assert kinds.lines(directory(job)) == ["do one", "do two", "do three"], job.kind


def test_a_child_killed_anywhere_while_undoing_leaves_nothing(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: Path
) -> None:
    failpoints.write_text(
        "\n".join(f"{name}/{point} kill" for name, point in kinds.KILLED_BACKWARD.items())
    )
    start_worker(children=4)
    jobs = [enqueue(name) for name in kinds.KILLED_BACKWARD]
    settle(*jobs)
    for job in jobs:
        assert (state(job), job.error_code) == ("failed", "job.internal"), job.kind
        assert kinds.effects(directory(job)) == set(), job.kind
        assert kinds.lines(directory(job)) == ["do one", "do two", "undo two", "undo one"], job.kind


def test_a_killed_worker_hands_over_to_another(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: Path
) -> None:
    failpoints.write_text("test.files/two:after-do kill-worker")
    first = start_worker(children=1)
    job = enqueue("test.files")
    wait_for(lambda: not first.alive(), "the worker is dead")
    assert state(job) == "running"
    start_worker()
    settle(job)
    assert state(job) == "succeeded"
    assert kinds.lines(directory(job)) == ["do one", "do two", "do three"]


def test_a_step_that_kills_every_worker_fails_and_is_undone(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: Path
) -> None:
    failpoints.write_text("test.files/three:before-do kill 0")
    start_worker(KVMWEB_JOB_LEASE_S="2")
    job = enqueue("test.files")
    settle(job, timeout_s=90)
    assert (state(job), job.error_code) == ("failed", "job.worker_lost")
    assert kinds.effects(directory(job)) == set()


def test_the_program_of_a_killed_worker_dies_with_it(
    start_worker: StartWorker, enqueue: Enqueue
) -> None:
    worker = start_worker()
    job = enqueue("test.sleeps")
    pid_file = directory(job) / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), "the program runs")
    program = Path("/proc") / pid_file.read_text().strip()
    assert program.exists()
    worker.kill()
    wait_for(lambda: not _runs(program), "the program is gone", timeout_s=5)


def _runs(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_slept_through_its_lease_changes_nothing_when_it_wakes(
    start_worker: StartWorker, enqueue: Enqueue, failpoints: Path
) -> None:
    failpoints.write_text("test.files/two:before-do hold")
    sleeper = start_worker(children=1)
    job = enqueue("test.files")
    hits = failpoints.with_name("failpoints.hits")
    wait_for(hits.exists, "the first worker is at its second step")
    os.killpg(sleeper.popen.pid, signal.SIGSTOP)
    start_worker(children=1)
    settle(job)
    assert (state(job), job.attempt) == ("succeeded", 2)
    finished_at = job.finished_at
    failpoints.write_text("")
    os.killpg(sleeper.popen.pid, signal.SIGCONT)
    wait_for(
        lambda: "was taken over" in sleeper.log.read_text() or _child_died(sleeper),
        "the first worker notices",
    )
    assert (state(job), job.attempt, job.finished_at) == ("succeeded", 2, finished_at)
    assert kinds.lines(directory(job)) == ["do one", "do two", "do three"]


def _child_died(worker: Process) -> bool:
    return "signal 9" in worker.log.read_text()
