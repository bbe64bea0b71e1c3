"""Deleting for good: what goes, what is asked first, and what happens while its host is away.

``test_recycle_bin`` has the delete that can be undone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounts import quotas
from accounts.errors import Conflict
from accounts.models import Allocation, Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, step_on, volumes
from vms import lifecycle, presentation, queries
from vms.models import VM

Made = Callable[..., VM]


def test_a_machine_that_is_off_goes_without_more_questions(
    made: Made, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm = made(start=False)
    job = lifecycle.request(vm, "delete", actor=owner, purge=True)
    vm.refresh_from_db()
    assert vm.desired == "deleted"
    assert quotas.usage(team)[Resource.DISK_GIB] == 10  # until the hypervisor has confirmed
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED
    assert volumes(fake) == set()
    assert fake.list_domains() == []
    assert not Allocation.objects.exists()
    vm.refresh_from_db()
    assert vm.deleted_at is not None
    assert vm.password_hash == ""
    assert queries.page(owner, queries.ListQuery()).count == 0
    # The image's copy, on which others stand, is still there.
    assert len(fake.list_volumes("default")) == 1


def test_one_that_runs_asks_for_its_name(made: Made, fake: FakeHypervisor, owner: User) -> None:
    vm = made()
    view = presentation.machine(vm, owner).verb("delete")
    assert view.needs_name
    assert f"kvmweb-{vm.uuid}-vda.qcow2" in view.confirm
    for wrong in ("", "web", "WEB-9"):
        with pytest.raises(Conflict, match=r"vm\.confirm_name"):
            lifecycle.request(vm, "delete", actor=owner, confirm_name=wrong, purge=True)
    assert not Job.objects.filter(kind="vm.delete").exists()
    run_to_end(lifecycle.request(vm, "delete", actor=owner, confirm_name="web-9", purge=True))
    assert fake.list_domains() == []


def test_during_its_first_boot_the_seed_goes_too(
    fake: FakeHypervisor, ask: Callable[..., tuple[VM, Job]], owner: User
) -> None:
    vm, creation = ask(owner)
    run_until_parked(creation, "address")
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True, purge=True))
    creation.refresh_from_db()
    assert creation.state == Job.State.SUCCEEDED  # it had been made
    assert volumes(fake) == set()


def test_a_host_that_is_away_is_waited_for(
    made: Made, fake: FakeHypervisor, owner: User, team: Team, host: Host
) -> None:
    vm = made(start=False)
    fake.unplug()
    Host.objects.filter(pk=host.pk).update(reach=Host.Reach.DOWN)
    job = lifecycle.request(VM.objects.get(pk=vm.pk), "delete", actor=owner, purge=True)
    for _ in range(5):
        step_on(job)
    assert (job.state, job.waiting_for) == (Job.State.RUNNING, "host")
    task = presentation.task(job)
    assert task.word == "Deleting"
    assert "host" in task.waiting
    assert not task.cancellable
    with pytest.raises(Conflict):
        job_services.cancel(job, actor=owner)
    assert quotas.usage(team)[Resource.DISK_GIB] == 10
    assert queries.page(owner, queries.ListQuery()).count == 1
    fake.plug()
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED
    assert volumes(fake) == set()


def test_what_fails_counts_on_and_can_be_repeated(
    made: Made, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm = made(start=False)
    fake.fail_next("delete_volume", UnknownVirtError("permission denied"))
    job = run_to_end(lifecycle.request(vm, "delete", actor=owner, purge=True))
    assert (job.state, job.error_code) == (Job.State.FAILED, "virt.unknown")
    vm.refresh_from_db()
    assert vm.deleted_at is None
    assert vm.desired == "stopped"
    assert vm.fault_code == "virt.unknown"
    states = set(Allocation.objects.filter(vm=vm).values_list("state", flat=True))
    assert states == {"active"}
    run_to_end(lifecycle.request(vm, "delete", actor=owner, purge=True))
    assert volumes(fake) == set()
    assert quotas.usage(team)[Resource.MACHINES] == 0


def test_one_that_its_host_has_lost(made: Made, fake: FakeHypervisor, owner: User) -> None:
    vm = made(start=False)
    fake.vanish(vm.uuid)
    VM.objects.filter(pk=vm.pk).update(observed="missing")
    vm.refresh_from_db()
    run_to_end(lifecycle.request(vm, "delete", actor=owner, purge=True))
    assert volumes(fake) == set()
    vm.refresh_from_db()
    assert vm.deleted_at is not None


def test_twice_at_once(made: Made, fake: FakeHypervisor, owner: User) -> None:
    vm = made(start=False)
    job = lifecycle.request(vm, "delete", actor=owner, purge=True)
    with pytest.raises(Conflict, match=r"why\.deleting"):
        lifecycle.request(vm, "delete", actor=owner, purge=True)
    run_to_end(job)
    with pytest.raises(Conflict, match=r"why\.deleted"):
        lifecycle.request(vm, "delete", actor=owner, purge=True)
