"""Heavy work on a host: no more than its places, first come first served, none lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hosts.models import Host
from jobs import engine, presentation, reconcile, services, slots
from jobs.models import Job, Slot
from tests.jobs import kinds
from tests.jobs.conftest import directory, state
from tests.jobs.driving import finish, lose_worker

pytestmark = pytest.mark.django_db(transaction=True)

Enqueue = Callable[..., Job]


@pytest.fixture
def one_place(host: Host) -> Host:
    host.copy_slots = 1
    host.save()
    return host


def taken() -> int:
    return Slot.objects.filter(job__isnull=False).count()


def test_a_place_is_taken_and_given_back(enqueue: Enqueue, one_place: Host) -> None:
    job = enqueue("test.heavy", host=one_place)
    assert slots.acquire(job, "copy") == 0
    assert slots.acquire(job, "copy") == 0  # again, after a lost worker: it is the same one
    assert taken() == 1
    finish(job)
    assert (state(job), taken()) == ("succeeded", 0)


def test_who_comes_later_waits_and_sees_the_position(enqueue: Enqueue, one_place: Host) -> None:
    first, second, third = (enqueue("test.heavy", host=one_place) for _ in range(3))
    assert slots.acquire(first, "copy") == 0
    for job, waiting_for in ((second, "slot:copy:1"), (third, "slot:copy:2")):
        engine.run(job.pk)
        job.refresh_from_db()
        assert (job.state, job.worker, job.waiting_for) == ("running", "", waiting_for)
    assert presentation.waiting(third) == "Number 2 in the queue for disk work on alpha"
    assert presentation.waiting(second) == "Next in the queue for disk work on alpha"


def test_a_free_place_wakes_who_waits_longest(enqueue: Enqueue, one_place: Host) -> None:
    first, second, third = (enqueue("test.heavy", host=one_place) for _ in range(3))
    slots.acquire(first, "copy")
    engine.run(second.pk)
    engine.run(third.pk)
    engine.run(first.pk)
    assert state(first) == "succeeded"
    assert not engine.run(third.pk)  # not woken
    assert engine.run(second.pk)
    assert state(second) == "succeeded"
    assert engine.run(third.pk)
    assert state(third) == "succeeded"
    assert third.retries == 0


def test_who_comes_last_does_not_overtake(enqueue: Enqueue, one_place: Host) -> None:
    first, second = (enqueue("test.heavy", host=one_place) for _ in range(2))
    slots.acquire(first, "copy")
    engine.run(second.pk)
    slots.release(first)
    late = enqueue("test.heavy", host=one_place)
    engine.run(late.pk)
    assert state(late) == "running"
    assert kinds.lines(directory(late)) == []


def test_other_hosts_and_kinds_are_free(enqueue: Enqueue, one_place: Host) -> None:
    slots.acquire(enqueue("test.heavy", host=one_place), "copy")
    other = Host.objects.create(name="beta", transport="local")
    assert finish(enqueue("test.heavy", host=other), pauses=1).state == "succeeded"
    assert slots.acquire(enqueue("test.heavy", host=one_place), "migrate") == 0


def test_the_place_of_a_dead_worker_becomes_free(enqueue: Enqueue, one_place: Host) -> None:
    dead, waiting = (enqueue("test.heavy", host=one_place) for _ in range(2))
    slots.acquire(dead, "copy")
    engine.run(waiting.pk)
    Slot.objects.update(lease_until="2026-01-01T00:00:00Z")
    reconcile.run()
    assert taken() == 0
    assert engine.run(waiting.pk)
    assert state(waiting) == "succeeded"


def test_failing_and_cancelling_give_the_place_back(enqueue: Enqueue, one_place: Host) -> None:
    job = enqueue("test.heavy", host=one_place)
    slots.acquire(job, "copy")
    (directory(job) / "effect-one").touch()  # the step finds it and breaks
    finish(job)
    assert (state(job), taken()) == ("failed", 0)
    job = enqueue("test.heavy", host=one_place)
    slots.acquire(job, "copy")
    services.cancel(job, actor=None)
    assert taken() == 0


def test_a_worker_lost_in_heavy_work_goes_on_in_its_own_place(
    enqueue: Enqueue, one_place: Host
) -> None:
    job = enqueue("test.heavy", host=one_place)
    slots.acquire(job, "copy")
    Job.objects.filter(pk=job.pk).update(state="running", worker="gone:1", attempt=1)
    lose_worker(job)
    assert engine.run(job.pk)
    assert state(job) == "succeeded"
