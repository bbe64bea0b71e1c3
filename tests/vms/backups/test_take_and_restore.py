"""Backups: whole, checked, restored over the machine or as a new one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from lxml import etree

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Membership, QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs import services as job_services
from jobs.models import Job
from tests.vms.backups.helpers import content, taken, write
from tests.vms.conftest import run_to_end, volumes
from vms import lifecycle, ownership, queries
from vms.backups import commands, services
from vms.hardware import requests as hardware
from vms.models import VM, Backup, Image
from vms.provisioning.validation import GIB

Made = Callable[..., VM]


def test_of_a_machine_that_is_off(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    write(fake, vm, b"precious")
    backup = taken(vm, owner)
    assert (backup.number, backup.image.state, backup.was_running) == (1, "ready", False)
    assert len(backup.image.checksum) == 64
    assert content(fake, backup.image.volume_name) == b"precious"
    assert fake.volume("default", backup.image.volume_name).backing_path is None
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 10


def test_of_a_running_one_that_goes_on(made: Made, fake: FakeHypervisor, owner: User) -> None:
    vm = made()
    write(fake, vm, b"live")
    backup = taken(vm, owner)
    assert backup.was_running
    assert content(fake, backup.image.volume_name) == b"live"
    vm.refresh_from_db()
    assert vm.observed == "running"


def test_restored_over_the_machine(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    write(fake, vm, b"before")
    backup = taken(vm, owner)
    write(fake, vm, b"ruined")
    old = vm.disks.get().volume
    job = run_to_end(services.restore_over(backup, actor=owner))
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
    disk = VM.objects.get(pk=vm.pk).disks.get()
    assert disk.volume != old
    assert disk.backing_image is None
    assert content(fake, disk.volume) == b"before"
    assert fake.domain(vm.uuid).disks[0].volume == disk.volume
    assert old not in volumes(fake)
    assert quotas.usage(team)[Resource.DISK_GIB] == 10
    run_to_end(services.restore_over(backup, actor=owner))  # and again
    assert len(volumes(fake)) == 1


def test_restored_over_a_disk_that_has_grown_it_stays_as_large(
    vm: VM, fake: FakeHypervisor, owner: User
) -> None:
    backup = taken(vm, owner)
    run_to_end(hardware.grow_disk(vm.disks.get(), actor=owner, size_gib=15))
    run_to_end(services.restore_over(backup, actor=owner))
    disk = VM.objects.get(pk=vm.pk).disks.get()
    assert disk.size_gib == 15
    assert fake.volume("default", disk.volume).capacity_bytes == 15 * GIB


def test_a_damaged_one_changes_nothing(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    backup = taken(vm, owner)
    write(fake, vm, b"as it is")
    fake._volume("default", backup.image.volume_name).content = b"bit rot"
    job = run_to_end(services.restore_over(backup, actor=owner))
    assert (job.state, job.error_code) == (Job.State.FAILED, "backup.damaged")
    assert content(fake, VM.objects.get(pk=vm.pk).disks.get().volume) == b"as it is"
    made, creation = services.restore_as_new(backup, actor=owner, name="again")
    assert run_to_end(creation).error_code == "backup.damaged"
    assert not VM.objects.alive().filter(pk=made.pk).exists()


def test_a_restore_that_fails_leaves_the_disk_that_was_there(
    vm: VM, fake: FakeHypervisor, owner: User
) -> None:
    backup = taken(vm, owner)
    write(fake, vm, b"as it is")
    before = vm.disks.get().volume
    fake.fail_next("define", UnknownVirtError("no"))
    job = run_to_end(services.restore_over(backup, actor=owner))
    assert job.state == Job.State.FAILED
    disk = VM.objects.get(pk=vm.pk).disks.get()
    assert (disk.volume, content(fake, disk.volume)) == (before, b"as it is")
    assert disk.backing_image is not None
    assert volumes(fake) == {before}
    assert fake.domain(vm.uuid).disks[0].volume == before


def test_restored_as_a_new_machine(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    write(fake, vm, b"precious")
    backup = taken(vm, owner)
    made, job = services.restore_as_new(backup, actor=owner, name="again")
    with pytest.raises(Conflict, match=r"image\.busy|in_use"):
        services.delete(backup, actor=owner)
    assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
    disk = made.disks.get()
    assert content(fake, disk.volume) == b"precious"
    assert disk.backing_image is None
    assert (made.vcpus, made.memory_mib, made.team) == (vm.vcpus, vm.memory_mib, team)
    assert made.nics.get().mac != vm.nics.get().mac
    run_to_end(services.delete(backup, actor=owner))
    assert queries.one(owner, made.uuid)


def test_a_new_machine_that_failed_is_tried_again_by_who_may_restore(
    vm: VM, fake: FakeHypervisor, owner: User, admin: User
) -> None:
    backup = taken(vm, owner)
    fake.fail_next("define", UnknownVirtError("no"))
    _made, job = services.restore_as_new(backup, actor=owner, name="again")
    assert run_to_end(job).state == Job.State.FAILED
    retried = job_services.retry(job, actor=owner)
    assert retried.vm is not None
    job_services.cancel(retried, actor=owner)
    VM.objects.filter(pk=vm.pk).update(owner=admin)
    Membership.objects.filter(user=owner).update(role=Membership.Role.MEMBER)
    with pytest.raises(Invalid, match=r"vm\.invalid"):
        job_services.retry(retried, actor=owner)


def test_a_failed_one_leaves_nothing(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    before = {v.name for v in fake.list_volumes("default")}
    fake.fail_next("download_volume", UnknownVirtError("no"))
    _backup, job = services.take(vm, actor=owner)
    assert run_to_end(job).state == Job.State.FAILED
    assert {v.name for v in fake.list_volumes("default")} == before
    assert not Backup.objects.exists()
    assert not Image.objects.filter(source="backup").exists()
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0


def test_they_change_hands_with_the_machine(
    vm: VM, fake: FakeHypervisor, owner: User, team: Team, admin: User
) -> None:
    taken(vm, owner)
    theirs = Team.objects.create(name="mordor", kind="team")
    Membership.objects.create(team=theirs, user=owner, role="manager")
    QuotaLimit.objects.create(scope="team", team=theirs, resource=Resource.BACKUPS_GIB, hard=5)
    with pytest.raises(QuotaExceeded):
        ownership.move_to_team(vm, actor=admin, team=theirs)
    QuotaLimit.objects.filter(team=theirs, resource=Resource.BACKUPS_GIB).update(hard=50)
    ownership.move_to_team(vm, actor=admin, team=theirs)
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0
    assert quotas.usage(theirs)[Resource.BACKUPS_GIB] == 10


def test_it_counts_for_the_owner_whoever_asks(
    vm: VM, fake: FakeHypervisor, owner: User, team: Team, admin: User
) -> None:
    taken(vm, admin)
    assert quotas.usage(team, owner)[Resource.BACKUPS_GIB] == 10
    assert quotas.usage(team, admin)[Resource.BACKUPS_GIB] == 0


def test_deleting_one(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    backup = taken(vm, owner)
    run_to_end(services.delete(backup, actor=owner))
    assert not Backup.objects.exists()
    assert backup.image.volume_name not in {v.name for v in fake.list_volumes("default")}
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0


def test_who_may(vm: VM, owner: User, teammate: User, outsider: User, fake: FakeHypervisor) -> None:
    backup = taken(vm, owner)
    for act in (
        lambda who: services.take(vm, actor=who),
        lambda who: services.restore_over(backup, actor=who),
        lambda who: services.restore_as_new(backup, actor=who, name="x"),
        lambda who: services.delete(backup, actor=who),
        lambda who: services.plan(vm, actor=who, every_days=1, keep=1),
    ):
        with pytest.raises(Forbidden):
            act(teammate)
        with pytest.raises(NotFound):
            act(outsider)
    # Nor does it show among images: it holds all that the machine held.
    for person in (teammate, outsider):
        assert backup.image not in Image.objects.visible_to(person)


def test_refused(made: Made, vm: VM, owner: User, team: Team, fake: FakeHypervisor) -> None:
    backup = taken(vm, owner)
    run_to_end(lifecycle.request(vm, "start", actor=owner))
    vm.refresh_from_db()
    with pytest.raises(Conflict, match=r"backup_on"):
        services.restore_over(backup, actor=owner)
    for every, keep in ((2, 1), (1, 0), (1, 61)):
        with pytest.raises(Invalid):
            services.plan(vm, actor=owner, every_days=every, keep=keep)
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.BACKUPS_GIB, hard=15)
    with pytest.raises(QuotaExceeded):
        services.take(vm, actor=owner)


def test_by_libvirts_backup_and_by_block_copy_where_the_host_has_none(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = made()
    write(fake, vm, b"one")
    first = taken(vm, owner)
    assert (fake.calls["finish_backup"], fake.calls["copy_running"]) == (1, 0)
    fake.has_backups = False
    write(fake, vm, b"two")
    second = taken(vm, owner)
    assert (fake.calls["finish_backup"], fake.calls["copy_running"]) == (1, 1)
    assert content(fake, first.image.volume_name) == b"one"
    assert content(fake, second.image.volume_name) == b"two"


def test_the_agent_holds_the_file_systems_still(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = made()
    assert not taken(vm, owner).frozen  # it has no agent
    fake.agents.add(vm.uuid)
    VM.objects.filter(pk=vm.pk).update(agent_seen=True)
    seen: list[bool] = []
    begin = fake.begin_backup

    def noticed(*args: Any) -> None:
        seen.append(vm.uuid in fake.frozen)
        begin(*args)

    fake.begin_backup = noticed  # type: ignore[method-assign]
    assert taken(vm, owner).frozen
    assert seen == [True]
    assert not fake.frozen
    fake.fail_next("finish_backup", UnknownVirtError("no"))
    _backup, job = services.take(vm, actor=owner)
    assert run_to_end(job).state == Job.State.FAILED
    assert not fake.frozen
    fake.has_backups = False
    assert not taken(vm, owner).frozen
    assert not fake.frozen


def test_show_command(made: Made, fake: FakeHypervisor, owner: User) -> None:
    """What ``virsh`` is given for a machine that runs is what the product gives libvirt."""
    vm = made()
    echo, begin, _wait, checksum = commands.show_take(vm)
    written = subprocess.run(
        ["bash", "-c", echo.replace("> backup.xml", "")], check=True, capture_output=True
    )
    target = etree.fromstring(written.stdout).find("./disks/disk/target")
    assert target is not None
    assert checksum == f"sha256sum {target.get('file')}"
    assert begin.endswith(f"backup-begin {vm.domain_name} backup.xml")
    run_to_end(lifecycle.request(vm, "force_off", actor=owner))
    vm.refresh_from_db()
    assert commands.show_take(vm)[0].startswith("qemu-img convert -p -O qcow2 ")
    backup = taken(vm, owner)
    for word in ("restore", "new"):
        assert commands.show_act(backup, word, name="it's")[0].startswith("echo ")
    assert commands.show_act(backup, "delete")[0].startswith("rm ")
