"""``python -m kvmweb.background``: workers, beat and watcher that share what they load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmweb.background import next_pause
from tests.servers import Process, Redis, database_url, wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
READY = ("quick@", "bulk@")


@pytest.fixture
def background(broker: Redis, tmp_path: Path) -> Iterator[Process]:
    process = Process(
        *("-m", "kvmweb.background"),
        env={
            "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
            "KVMWEB_VAR": str(tmp_path),
            "KVMWEB_DATABASE_URL": database_url(),
            "KVMWEB_REDIS_URL": broker.url,
            "PYTHONUNBUFFERED": "1",
        },
        log=tmp_path / "background.log",
    )
    try:
        wait_for(lambda: ready(process) == len(READY), "both workers are ready", timeout_s=120)
        yield process
    finally:
        process.kill()


def ready(process: Process) -> int:
    said = process.log.read_text().splitlines()
    return sum(line.endswith(" ready.") and any(name in line for name in READY) for line in said)


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if state(pid) not in ("", "Z")]


def state(pid: int) -> str:
    """Of the process, as in ``ps``; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_worker_that_is_killed_is_started_again(background: Process) -> None:
    worker = next(pid for pid in children(background.pid) if children(pid))
    theirs = descendants(worker)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: ready(background) == len(READY) + 1, "it is ready again", timeout_s=120)
    wait_for(
        lambda: not running([worker, *theirs]),
        "what was left of the first one has ended",
        timeout_s=90,
    )
    assert "ended with -9: starting it again in 1 s" in background.log.read_text()
    assert len(children(background.pid)) == 4  # two workers, beat, the watcher


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_their_parent(background: Process, number: signal.Signals) -> None:
    whole = descendants(background.pid)
    assert len(whole) == 4 + 2 * 2
    background.send(number)
    wait_for(lambda: not running(whole), "all have ended")
    wait_for(lambda: not background.alive(), "and their parent")


def test_what_ends_at_its_start_gets_ever_longer_pauses() -> None:
    pauses = [0.0]
    for _ in range(7):
        pauses.append(next_pause(pauses[-1], ran_s=0.1))
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30]
    assert next_pause(30, ran_s=3600) == 1


ADOPTS_ORPHANS = """
import ctypes, os, time
from kvmweb.background import keep_running

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as a container's first process
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
    os._exit(0)
print("begun", flush=True)
keep_running({"sleeper": lambda: time.sleep(3600)})
"""


def test_orphans_of_others_are_no_zombies(tmp_path: Path) -> None:
    process = Process("-c", ADOPTS_ORPHANS, env={}, log=tmp_path / "log")
    try:
        wait_for(lambda: "begun" in process.log.read_text(), "it has begun")
        wait_for(lambda: len(children(process.pid)) == 1, "only the sleeper is left")
        process.send(signal.SIGTERM)
        wait_for(lambda: not process.alive(), "it has ended")
    finally:
        process.kill()
