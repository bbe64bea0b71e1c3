"""A machine is made: what the hypervisor has then, and what it has when it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from accounts import quotas
from accounts.models import Allocation, Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import (
    AlreadyExists,
    DomainBusy,
    HostUnreachable,
    NoSpace,
    UnknownVirtError,
)
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainSpec, DomainState, VolumeSpec
from jobs import services as job_services
from jobs.models import Job, Step
from tests.vms.conftest import run_to_end, run_until_parked, step_on, volumes
from vms import presentation
from vms.models import VM, Image

Ask = Callable[..., tuple[VM, Job]]
GIB = 1024**3


def states(job: Job) -> dict[str, str]:
    return dict(job.steps.values_list("key", "state"))


class TestMade:
    def test_linked(self, fake: FakeHypervisor, ask: Ask, owner: User, image: Image) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        domain = fake.domain(vm.uuid)
        assert domain.state is DomainState.RUNNING
        assert domain.name == "web-9"
        assert domain.metadata is not None
        assert domain.metadata.owner == "owner"
        assert volumes(fake) == {f"kvmweb-{vm.uuid}-vda.qcow2", f"kvmweb-{vm.uuid}-seed.iso"}
        disk = fake.volume("default", f"kvmweb-{vm.uuid}-vda.qcow2")
        assert disk.capacity_bytes == 10 * GIB
        assert disk.backing_path is not None
        assert disk.backing_path.endswith(image.volume_name)
        assert job.observing
        vm.refresh_from_db()
        assert vm.observed == VM.Observed.RUNNING
        assert vm.started_at is not None

    def test_full(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        vm, job = ask(owner, copy="full", disk_gib=12)
        run_until_parked(job, "address")
        disk = fake.volume("default", f"kvmweb-{vm.uuid}-vda.qcow2")
        assert disk.backing_path is None
        assert disk.capacity_bytes == 12 * GIB
        assert states(job)["disk"] == Step.State.SKIPPED
        assert states(job)["copy"] == Step.State.DONE

    def test_first_boot_to_its_end(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        fake.guest_boots(vm.uuid, address="192.168.122.14", report=False)
        run_until_parked(job, "firstboot")
        assert [nic.addresses for nic in vm.nics.all()] == [["192.168.122.14"]]
        VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == ""
        assert volumes(fake) == {f"kvmweb-{vm.uuid}-vda.qcow2"}
        vm.refresh_from_db()
        assert vm.seed_volume == vm.password_hash == ""
        view = presentation.machine(vm, owner)
        assert view.connect == "ssh tiny@192.168.122.14"
        assert view.task is None

    def test_not_started(self, fake: FakeHypervisor, ask: Ask, owner: User, team: Team) -> None:
        vm, job = ask(owner, start=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert fake.domain(vm.uuid).state is DomainState.SHUTOFF
        vm.refresh_from_db()
        assert vm.observed == VM.Observed.SHUTOFF
        # The seed waits for the first start.
        assert f"kvmweb-{vm.uuid}-seed.iso" in volumes(fake)
        usage = quotas.usage(team)
        assert usage[Resource.MACHINES] == 1
        assert usage[Resource.RUNNING_MACHINES] == 0

    def test_without_cloud_init_there_is_no_seed(
        self, fake: FakeHypervisor, ask: Ask, owner: User, image: Image
    ) -> None:
        image.has_cloud_init = False
        image.save()
        vm, job = ask(owner, password="", ssh_keys=[])
        run_until_parked(job, "address")
        fake.guest_boots(vm.uuid, report=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert volumes(fake) == {f"kvmweb-{vm.uuid}-vda.qcow2"}

    def test_what_was_held_is_active_once_it_runs(
        self, made: Callable[..., VM], team: Team
    ) -> None:
        vm = made()
        held = set(Allocation.objects.filter(vm=vm).values_list("state", flat=True))
        assert held == {Allocation.State.ACTIVE}

    def test_no_secret_in_the_job(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        vm.refresh_from_db()
        told = f"{job.params} {job.data} {list(job.steps.values())}"
        assert vm.password_hash
        assert vm.password_hash not in told
        assert "correct horse" not in told


class TestFirstBoot:
    def test_cloud_init_failed(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        fake.guest_boots(vm.uuid, report=False)
        VM.objects.filter(pk=vm.pk).update(
            first_boot=VM.FirstBoot.FAILED, first_boot_excerpt="no such module"
        )
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == "vm.first_boot_failed"
        assert job.error_params == {"excerpt": "no such module"}
        assert f"kvmweb-{vm.uuid}-seed.iso" not in volumes(fake)

    def test_silent(self, fake: FakeHypervisor, ask: Ask, owner: User, monkeypatch: Any) -> None:
        from datetime import timedelta

        from vms.provisioning import observing

        monkeypatch.setattr(observing, "ADDRESS_PATIENCE", timedelta(0))
        monkeypatch.setattr(observing, "FIRST_BOOT_PATIENCE", timedelta(0))
        vm, job = ask(owner)
        run_to_end(job)
        vm.refresh_from_db()
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == "vm.no_address"
        assert vm.first_boot == VM.FirstBoot.SILENT
        assert vm.seed_volume == ""

    def test_switched_off_in_between_keeps_the_seed(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        fake.guest_powers_off(vm.uuid)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == "vm.off_in_first_boot"
        vm.refresh_from_db()
        assert vm.seed_volume
        assert vm.seed_volume in volumes(fake)


FAILING = [
    ("create_volume", "disk"),
    ("upload_volume", "seed"),
    ("define", "define"),
    ("start", "boot"),
]


class TestFails:
    @pytest.mark.parametrize(("method", "step"), FAILING)
    def test_nothing_is_left(
        self,
        fake: FakeHypervisor,
        ask: Ask,
        owner: User,
        team: Team,
        method: str,
        step: str,
    ) -> None:
        fake.fail_next(method, NoSpace("pool is full"))
        _vm, job = ask(owner)
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert (job.error_code, job.step) == ("virt.no_space", step)
        assert job.error_ref
        assert volumes(fake) == set()
        assert fake.list_domains() == []
        assert not Allocation.objects.exists()
        assert not VM.objects.alive().exists()
        assert states(job)[step] in (Step.State.UNDONE, Step.State.FAILED)
        # The name is free, and the next one works.
        again, second = ask(owner)
        run_until_parked(second, "address")
        assert again.domain_name == "web-9"

    def test_full_copy_on_a_full_pool(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        fake.fail_next("clone_volume", NoSpace("pool is full"))
        _vm, job = ask(owner, copy="full")
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "virt.no_space")
        assert volumes(fake) == set()

    def test_no_host_takes_it(
        self, fake: FakeHypervisor, ask: Ask, owner: User, host: Host
    ) -> None:
        vm, job = ask(owner)
        Host.objects.filter(pk=host.pk).update(mode=Host.Mode.MAINTENANCE)
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert job.error_code == "placement.maintenance"
        vm.refresh_from_db()
        assert vm.deleted_at is not None
        assert fake.calls["create_volume"] == 1  # the image's own copy in this fixture

    def test_an_unreachable_host_is_tried_again(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        fake.fail_next("define", HostUnreachable("gone"))
        _vm, job = ask(owner)
        step_on(job)
        assert job.state == Job.State.RUNNING
        assert job.waiting_for == "retry:virt.host_unreachable"
        run_until_parked(job, "address")

    def test_what_cannot_be_undone_is_deleted_when_it_can(
        self, fake: FakeHypervisor, ask: Ask, owner: User, team: Team
    ) -> None:
        """The host goes away for good in the middle: the machine keeps its quota until the
        host is back and has confirmed that nothing is left."""
        fake.fail_next("start", UnknownVirtError("qemu fell over"))
        fake.fail_next("force_off", HostUnreachable("gone"), times=60)
        fake.fail_next("delete_volume", HostUnreachable("gone"), times=60)
        vm, job = ask(owner)
        for _ in range(120):
            if step_on(job).is_over:
                break
        assert job.state == Job.State.FAILED
        assert job.warning_code == "job.cleanup_incomplete"
        assert quotas.usage(team)[Resource.MACHINES] == 1
        removal = Job.objects.get(kind="vm.delete", vm=vm)
        fake._faults.clear()
        run_to_end(removal)
        assert removal.state == Job.State.SUCCEEDED
        assert volumes(fake) == set()
        assert fake.list_domains() == []
        assert quotas.usage(team)[Resource.MACHINES] == 0


class TestCancelled:
    def test_while_queued(self, fake: FakeHypervisor, ask: Ask, owner: User) -> None:
        vm, job = ask(owner)
        job_services.cancel(job, actor=owner)
        job.refresh_from_db()
        assert job.state == Job.State.CANCELLED
        assert not VM.objects.alive().filter(pk=vm.pk).exists()
        assert not Allocation.objects.exists()

    def test_in_the_middle_of_a_copy(
        self, fake: FakeHypervisor, ask: Ask, owner: User, monkeypatch: Any
    ) -> None:
        from jobs.context import JobContext

        monkeypatch.setitem(JobContext.checkpoint.__kwdefaults__, "max_age_s", -1.0)
        _vm, job = ask(owner, copy="full")
        original = fake.clone_volume

        def clone(*args: Any, **kwargs: Any) -> Any:
            Job.objects.filter(pk=job.pk).update(cancel_requested=True)
            return original(*args, **kwargs)

        monkeypatch.setattr(fake, "clone_volume", clone)
        run_to_end(job)
        assert job.state == Job.State.CANCELLED
        assert volumes(fake) == set()
        assert not Allocation.objects.exists()

    def test_once_it_runs_cancelling_only_stops_the_watching(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        vm, job = ask(owner)
        run_until_parked(job, "address")
        job_services.cancel(job, actor=owner)
        job.refresh_from_db()
        assert job.state == Job.State.SUCCEEDED
        assert fake.domain(vm.uuid).state is DomainState.RUNNING
        assert VM.objects.alive().filter(pk=vm.pk).exists()


class TestAgain:
    def test_a_half_written_volume_of_a_dead_worker_is_not_trusted(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        vm, job = ask(owner)
        name = f"kvmweb-{vm.uuid}-vda.qcow2"
        fake.create_volume(VolumeSpec(pool="default", name=name, capacity_bytes=GIB))
        run_until_parked(job, "address")
        disk = fake.volume("default", name)
        assert disk.capacity_bytes == 10 * GIB
        assert disk.backing_path is not None

    def test_a_copy_that_still_runs_is_waited_for(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        fake.fail_next("delete_volume", DomainBusy("volume is still being allocated"))
        _vm, job = ask(owner)
        step_on(job)
        assert job.waiting_for == "volume"
        run_until_parked(job, "address")

    def test_a_strangers_domain_of_the_same_name(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        import uuid

        fake.define(DomainSpec(uuid=uuid.uuid4(), name="web-9", vcpus=1, memory_mib=64, disks=()))
        vm, job = ask(owner)
        run_until_parked(job, "address")
        vm.refresh_from_db()
        assert vm.domain_name.startswith("web-9-")
        assert fake.domain(vm.uuid).name == vm.domain_name

    @pytest.mark.parametrize("copy", ["linked", "full"])
    def test_retry_makes_the_same_machine_with_the_same_password(
        self, fake: FakeHypervisor, ask: Ask, owner: User, copy: str
    ) -> None:
        fake.fail_next("define", AlreadyExists("somebody"), times=2)
        vm, job = ask(owner, copy=copy, tags=["db"], description="mine")
        run_to_end(job)
        assert job.state == Job.State.FAILED
        vm.refresh_from_db()
        had = vm.password_hash
        again = job_services.retry(job, actor=owner)
        assert again.vm is not None
        new = again.vm
        assert new.pk != vm.pk
        assert new.uuid != vm.uuid
        assert new.password_hash == had
        assert [tag.name for tag in new.tags.all()] == ["db"]
        assert new.disks.get().volume != vm.disks.get().volume
        run_until_parked(again, "address")

    def test_retry_when_the_password_is_forgotten(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        from datetime import timedelta

        from accounts.errors import Conflict
        from vms.provisioning import outcome

        fake.fail_next("define", NoSpace("full"))
        vm, job = ask(owner)
        run_to_end(job)
        VM.objects.filter(pk=vm.pk).update(deleted_at=timezone.now() - timedelta(hours=2))
        outcome.forget_passwords()
        vm.refresh_from_db()
        assert vm.password_hash == ""
        with pytest.raises(Conflict, match="retry_password_gone"):
            job_services.retry(job, actor=owner)


class TestShown:
    def test_the_steps_to_come_are_shown_and_those_not_needed_are_not(
        self, fake: FakeHypervisor, ask: Ask, owner: User
    ) -> None:
        vm, job = ask(owner)
        keys = [view.key for view in presentation.steps(job)]
        assert keys == [
            "place",
            "image",
            "disk",
            "seed",
            "define",
            "boot",
            "address",
            "firstboot",
            "finish",
        ]
        run_until_parked(job, "address")
        shown = {view.key: view.state for view in presentation.steps(job)}
        assert shown["disk"] == Step.State.DONE
        assert shown["address"] == Step.State.RUNNING
        assert shown["finish"] == Step.State.PENDING
        task = presentation.task(job)
        assert task.step_label == "Waiting for an address"
        assert task.waiting
        assert task.percent is not None
        assert 30 < task.percent < 80
        assert presentation.state(vm, job).word != "Creating"
