"""Team, machine, job: whoever takes several rows takes them in this order, so that a person who
acts on a machine and what the hosts tell of it never stand in each other's way for ever.

PostgreSQL only: SQLite has one writer at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from accounts import quotas
from accounts.models import Resource, Team, User
from jobs import endings
from jobs import services as job_services
from jobs.models import Job
from vms import lifecycle
from vms.models import VM

pytestmark = pytest.mark.django_db(transaction=True)

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def postgres_only() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], object]], Future[object]]]:
    """Runs it in another transaction at the same time."""
    with ThreadPoolExecutor(1) as pool:

        def run(work: Callable[[], object]) -> Future[object]:
            def whole() -> object:
                try:
                    with transaction.atomic():
                        return work()
                finally:
                    connection.close()

            return pool.submit(whole)

        yield run


def until_it_waits_or_ends(other: Future[object]) -> None:
    """For a row that this transaction holds, or to its end."""
    end = time.monotonic() + WAIT_S
    with connection.cursor() as cursor:
        while not other.done():
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_verb_while_the_first_boot_is_told_to_be_over(
    vm: VM, owner: User, beside: Callable[[Callable[[], object]], Future[object]]
) -> None:
    """The worker ends the job that only looks on, and writes the machine; the person's request has
    the machine already and ends that job to make room."""
    VM.objects.filter(pk=vm.pk).update(observed="running")
    job = Job.objects.create(
        kind="vm.create", vm=vm, actor=owner, target_name=vm.name, state="running", observing=True
    )
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        VM.objects.select_for_update().get(pk=vm.pk)
        worker = beside(lambda: endings.finish(job, Job.State.SUCCEEDED))
        until_it_waits_or_ends(worker)
        asked = lifecycle.request(vm, "reboot", actor=owner)
    assert worker.result(WAIT_S) is False
    assert asked.kind == "vm.reboot"
    assert Job.objects.get(pk=job.pk).state == Job.State.SUCCEEDED


def test_the_same_cancelled_by_hand(
    vm: VM, owner: User, beside: Callable[[Callable[[], object]], Future[object]]
) -> None:
    job = Job.objects.create(
        kind="vm.create", vm=vm, actor=owner, target_name=vm.name, state="running", observing=True
    )
    with transaction.atomic():
        VM.objects.select_for_update().get(pk=vm.pk)
        by_hand = beside(lambda: job_services.cancel(job, actor=owner))
        until_it_waits_or_ends(by_hand)
        assert endings.finish(job, Job.State.SUCCEEDED)
    with pytest.raises(Exception, match="already_over"):
        by_hand.result(WAIT_S)


def test_what_a_host_tells_while_somebody_grows_in_the_team(
    vm: VM, team: Team, beside: Callable[[Callable[[], object]], Future[object]]
) -> None:
    """A machine that is seen with another size counts so; each new row of the quota's points at
    its team, which the request holds."""

    def watcher() -> None:
        row = VM.objects.select_for_update().get(pk=vm.pk)
        quotas.settle(row, {Resource.VCPUS: 1, Resource.MEMORY_MIB: 512})

    with transaction.atomic():
        quotas.lock_team(team)
        seen = beside(watcher)
        until_it_waits_or_ends(seen)
        VM.objects.select_for_update().get(pk=vm.pk)
    seen.result(WAIT_S)
    assert quotas.held_by(vm)[Resource.VCPUS] == 1
