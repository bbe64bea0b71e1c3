"""Killed in the middle of a copy, libvirtd restarted, the pool full, Redis emptied, delivered 20
times: after each the job is final or goes on, nothing is orphaned, the next create works."""

from __future__ import annotations

import pytest

from tests.faults.conftest import HOST, POOL_FOLDER, Drill

pytestmark = [pytest.mark.lab, pytest.mark.broker, pytest.mark.timeout(600)]

FILLER = f"{POOL_FOLDER}/filler"


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_killed_in_the_middle_of_a_full_copy(drill: Drill, victim: str) -> None:
    with drill.slow_copies():
        answer = drill.create(copy="full")
        drill.wait_in_the_middle_of_a_copy(answer)
        if victim == "child":
            drill.kill_children("bulk")
        else:
            drill.kill_worker("bulk")
        (job,) = drill.settle(answer)
    assert job["state"] == "succeeded", job
    drill.assert_nothing_is_orphaned()
    drill.assert_disk_is_whole(answer)
    drill.assert_next_create_works()


def test_libvirtd_restarted_in_the_middle_of_a_copy(drill: Drill) -> None:
    with drill.slow_copies():
        answer = drill.create(copy="full")
        drill.wait_in_the_middle_of_a_copy(answer)
        drill.lab.run("restart", HOST)
        (job,) = drill.settle(answer)
    assert job["state"] in ("succeeded", "failed"), job
    drill.assert_nothing_is_orphaned()
    if job["state"] == "succeeded":
        drill.assert_disk_is_whole(answer)
    drill.assert_next_create_works()


def test_cancelled_in_the_middle_of_a_copy(drill: Drill) -> None:
    with drill.slow_copies():
        answer = drill.create(copy="full")
        drill.wait_in_the_middle_of_a_copy(answer)
        drill.stack.api("POST", f"/jobs/{answer['job']['id']}/cancel")
        (job,) = drill.settle(answer)
    assert job["state"] == "cancelled", job
    drill.assert_nothing_is_orphaned()
    assert drill.files() == set()


def test_the_pool_fills_up_in_the_middle_of_a_copy(drill: Drill) -> None:
    room_mib = 4  # less than a copy of the tiny image takes
    with drill.slow_copies():
        answer = drill.create(copy="full")
        drill.wait_in_the_middle_of_a_copy(answer)
        capacity = drill.lab.exec(HOST, "df", "--output=size", "-B1G", POOL_FOLDER).stdout
        assert int(capacity.split()[1]) < 4, "this is not the lab's own small pool"
        free = drill.lab.exec(HOST, "df", "--output=avail", "-B1M", POOL_FOLDER).stdout.split()[1]
        drill.lab.exec(HOST, "fallocate", "-l", f"{int(free) - room_mib}M", FILLER)
        try:
            (job,) = drill.settle(answer)
        finally:
            drill.lab.exec(HOST, "rm", FILLER)
    assert job["state"] == "failed", job
    assert job["error"]["code"] == "virt.no_space", job
    assert job["error"]["ref"]
    drill.assert_nothing_is_orphaned()
    drill.assert_next_create_works()


def test_redis_restarted_empty(drill: Drill) -> None:
    answers = [drill.create() for _ in range(4)]
    drill.stack.restart_redis_empty()
    jobs = drill.settle(*answers)
    assert {job["state"] for job in jobs} == {"succeeded"}, jobs
    drill.assert_nothing_is_orphaned()
    drill.assert_next_create_works()


def test_delivered_twenty_times(drill: Drill) -> None:
    with drill.slow_copies():
        answer = drill.create(copy="full")
        drill.deliver(answer["job"]["id"], 20)
        (job,) = drill.settle(answer)
        copies = drill.copies.read_text().splitlines()
    assert job["state"] == "succeeded", job
    assert len(copies) == 1, copies
    drill.assert_nothing_is_orphaned()
    drill.assert_disk_is_whole(answer)
