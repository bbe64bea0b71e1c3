"""What a lost worker left on a host goes by itself; everything else is listed and stays."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from accounts.models import Allocation, AuditEntry, Resource, Team, User
from hosts import connections, services
from hosts.models import Host, Pool, Untracked
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DiskSpec, DomainMetadata, DomainSpec, VolumeSpec
from jobs.models import Job
from tests.jobs.driving import finish
from vms import reconcile, state
from vms.models import VM, ImageCopy

MIB = 1024**2


@pytest.fixture
def fake(host: Host, pool: Pool) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("alpha")
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


def volume(fake: FakeHypervisor, name: str) -> None:
    fake.create_volume(VolumeSpec(pool="default", name=name, capacity_bytes=MIB))


def names(fake: FakeHypervisor) -> set[str]:
    return {facts.name for facts in fake.list_volumes("default")}


def domain(fake: FakeHypervisor, vm: VM, site: str | None = None) -> None:
    disk = vm.disks.all()[0].volume
    fake.define(
        DomainSpec(
            uuid=vm.uuid,
            name=vm.domain_name,
            vcpus=1,
            memory_mib=64,
            disks=(DiskSpec(pool="default", volume=disk),),
            metadata=DomainMetadata(
                vm_uuid=vm.uuid,
                name=vm.name,
                owner="owner",
                team="rivendell",
                site=settings.SITE_MARK if site is None else site,
            ),
        )
    )


@pytest.fixture
def failed(make_vm: Callable[..., VM], owner: User, team: Team, host: Host) -> VM:
    """A machine whose creation failed two minutes ago."""
    vm = make_vm(owner, team, observed=VM.Observed.UNKNOWN)
    VM.objects.filter(pk=vm.pk).update(
        deleted_at=timezone.now() - timedelta(minutes=2), desired=VM.Desired.DELETED
    )
    Job.objects.create(
        kind="vm.create",
        vm=vm,
        host=host,
        actor=owner,
        state=Job.State.FAILED,
        finished_at=timezone.now() - timedelta(minutes=2),
    )
    vm.refresh_from_db()
    return vm


def listed(*, tagged: bool) -> set[str]:
    return set(Untracked.objects.filter(tagged=tagged).values_list("name", flat=True))


def sweep(host: Host) -> Job:
    job = finish(services.request_sweep(host, actor=None))
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.error_params)
    return job


def test_leftovers_of_a_failed_create_are_removed(
    fake: FakeHypervisor, failed: VM, host: Host
) -> None:
    volume(fake, failed.disks.all()[0].volume)
    volume(fake, f"kvmweb-{failed.uuid}-seed.iso")
    domain(fake, failed)
    fake.start(failed.uuid)
    sweep(host)
    assert names(fake) == set()
    assert fake.list_domains() == []
    assert AuditEntry.objects.filter(verb="host.sweep", before__kind="domain").exists()


def test_a_sweep_is_asked_for_once_after_a_failed_create(
    fake: FakeHypervisor, failed: VM, host: Host
) -> None:
    def asked() -> int:
        reconcile.request_sweeps()
        return Job.objects.filter(kind="host.sweep").count()

    assert asked() == 1  # the first of this host
    assert asked() == 1  # it has not run yet
    finish(Job.objects.get(kind="host.sweep"))
    assert asked() == 1  # everything that failed was before it
    VM.objects.filter(pk=failed.pk).update(deleted_at=timezone.now())
    assert asked() == 1  # too fresh: a lost worker of it may still be at work
    Job.objects.filter(kind="host.sweep").update(created_at=timezone.now() - timedelta(seconds=100))
    VM.objects.filter(pk=failed.pk).update(deleted_at=timezone.now() - timedelta(seconds=50))
    assert asked() == 2


def test_what_lives_is_not_touched(
    fake: FakeHypervisor, vm: VM, host: Host, make_vm: Callable[..., VM], owner: User, team: Team
) -> None:
    making = make_vm(owner, team, "in-the-making", observed=VM.Observed.UNKNOWN)
    Job.objects.create(kind="vm.create", vm=making, state=Job.State.RUNNING, worker="w")
    kept = {f"kvmweb-{vm.uuid}-seed.iso", f"kvmweb-{making.uuid}-seed.iso"}
    for machine in (vm, making):
        kept.add(machine.disks.all()[0].volume)
    for name in kept:
        volume(fake, name)
    domain(fake, vm)
    domain(fake, making)
    sweep(host)
    assert names(fake) == kept
    assert len(fake.list_domains()) == 2
    assert not Untracked.objects.exists()


def test_a_running_delete_is_left_to_its_job(fake: FakeHypervisor, failed: VM, host: Host) -> None:
    volume(fake, failed.disks.all()[0].volume)
    Job.objects.create(kind="vm.delete", vm=failed, state=Job.State.RUNNING, worker="w")
    sweep(host)
    assert names(fake) == {failed.disks.all()[0].volume}


def test_what_is_not_proven_ours_is_listed_and_stays(
    fake: FakeHypervisor, failed: VM, host: Host
) -> None:
    unknown = f"kvmweb-{uuid.uuid4()}-vda.qcow2"
    image = f"kvmweb-image-{uuid.uuid4()}.qcow2"
    for name in (unknown, image, "somebody-elses.qcow2", "kvmweb-probe-1234"):
        volume(fake, name)
    volume(fake, failed.disks.all()[0].volume)
    domain(fake, failed, site="another-site")
    sweep(host)
    assert [facts.uuid for facts in fake.list_domains()] == [failed.uuid]
    assert {unknown, image, "somebody-elses.qcow2"} <= names(fake)
    assert listed(tagged=True) == {unknown, image}
    assert listed(tagged=False) == {"somebody-elses.qcow2"}
    fake.delete_volume("default", unknown)
    sweep(host)
    assert listed(tagged=True) == {image}


def test_a_volume_that_others_stand_on_stays(fake: FakeHypervisor, failed: VM, host: Host) -> None:
    base = failed.disks.all()[0].volume
    volume(fake, base)
    fake.create_volume(
        VolumeSpec(
            pool="default",
            name="overlay.qcow2",
            capacity_bytes=MIB,
            backing_volume=base,
            backing_format="qcow2",
        )
    )
    sweep(host)
    assert base in names(fake)


def test_an_images_copy_is_not_a_leftover(
    fake: FakeHypervisor, host: Host, pool: Pool, image: object
) -> None:
    copy = ImageCopy.objects.create(image=image, pool=pool, state="ready")
    volume(fake, copy.image.volume_name)
    sweep(host)
    assert copy.image.volume_name in names(fake)
    assert not Untracked.objects.exists()


# --- quota ------------------------------------------------------------------------------------


def hold(vm: VM, resource: Resource, held: str = "active") -> None:
    Allocation.objects.create(
        vm=vm, team=vm.team, user=vm.owner, resource=resource, amount=1, state=held
    )


def test_a_deleted_machine_holds_no_quota(failed: VM) -> None:
    hold(failed, Resource.MACHINES)
    reconcile.recount()
    assert not Allocation.objects.exists()


def test_a_stopped_machine_does_not_count_as_running(vm: VM) -> None:
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    hold(vm, Resource.MACHINES)
    hold(vm, Resource.RUNNING_MACHINES)
    reconcile.recount()
    assert [row.resource for row in Allocation.objects.all()] == ["machines"]


def test_a_running_machine_counts(vm: VM) -> None:
    reconcile.recount()
    held = set(Allocation.objects.values_list("resource", flat=True))
    assert held == set(state.RUNNING_RESOURCES)


def test_what_a_job_holds_is_left_to_it(vm: VM) -> None:
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    hold(vm, Resource.RUNNING_MACHINES, "held")
    job = Job.objects.create(kind="vm.start", vm=vm)
    reconcile.recount()
    assert Allocation.objects.count() == 1
    job.delete()
    reconcile.recount()
    assert Allocation.objects.count() == 0
