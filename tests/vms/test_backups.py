"""Backups: whole, checked, restored over the machine or as a new one, and kept as planned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end, volumes
from vms import lifecycle, queries
from vms.backups import services
from vms.models import VM, Backup, BackupPlan, Image

Made = Callable[..., VM]


@pytest.fixture
def vm(made: Made) -> VM:
    """Made, booted once, and off."""
    row = made()
    run_to_end(lifecycle.request(row, "force_off", actor=row.owner))
    row.refresh_from_db()
    return row


def taken(vm: VM, actor: User | None) -> Backup:
    backup, job = services.take(vm, actor=actor, scheduled=actor is None)
    assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
    return Backup.objects.select_related("image", "vm").get(pk=backup.pk)


def content(fake: FakeHypervisor, volume: str) -> bytes:
    found: bytes = fake._volume("default", volume).content
    return found


def write(fake: FakeHypervisor, vm: VM, data: bytes) -> None:
    fake._volume("default", vm.disks.get().volume).content = data


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


def test_a_failed_one_leaves_nothing(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    before = {v.name for v in fake.list_volumes("default")}
    fake.fail_next("download_volume", UnknownVirtError("no"))
    _backup, job = services.take(vm, actor=owner)
    assert run_to_end(job).state == Job.State.FAILED
    assert {v.name for v in fake.list_volumes("default")} == before
    assert not Backup.objects.exists()
    assert not Image.objects.filter(source="backup").exists()
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0


def test_deleting_one(vm: VM, fake: FakeHypervisor, owner: User, team: Team) -> None:
    backup = taken(vm, owner)
    run_to_end(services.delete(backup, actor=owner))
    assert not Backup.objects.exists()
    assert backup.image.volume_name not in {v.name for v in fake.list_volumes("default")}
    assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0


def test_by_the_clock_and_how_many_stay(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    by_hand = taken(vm, owner)
    services.plan(vm, actor=owner, every_days=1, keep=2)
    for _ in range(4):
        BackupPlan.objects.update(next_at=timezone.now() - timedelta(seconds=1))
        services.rounds()
        services.rounds()  # not twice
        for job in Job.objects.active():
            run_to_end(job)
        for job in Job.objects.active():  # what the plan deletes
            run_to_end(job)
    kept = set(Backup.objects.filter(vm=vm).values_list("number", flat=True))
    assert kept == {by_hand.number, 4, 5}
    plan = BackupPlan.objects.get()
    assert timedelta(hours=23) < plan.next_at - timezone.now() <= timedelta(days=1)
    services.plan(vm, actor=owner, every_days=0, keep=2)
    assert not BackupPlan.objects.exists()


def test_a_round_that_cannot_be_begun_is_put_off(vm: VM, owner: User) -> None:
    services.plan(vm, actor=owner, every_days=7, keep=1)
    lifecycle.request(vm, "start", actor=owner)
    services.rounds()
    assert not Backup.objects.exists()
    assert BackupPlan.objects.get().next_at > timezone.now()


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


class TestPages:
    def test_tab_and_dialogs(
        self, vm: VM, owner: User, viewer: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        client.post(f"/machines/{vm.uuid}/backups/take/")
        run_to_end(Job.objects.get(kind="vm.backup"))
        page = client.get(f"/machines/{vm.uuid}/?tab=backups").content.decode()
        assert "Whole" in page
        for word, text in (("restore", "is lost"), ("new", "identity of its own"), ("delete", "?")):
            dialog = client.get(f"/machines/{vm.uuid}/backups/1/?for={word}").content.decode()
            assert word == "delete" or text in dialog
        client.post(f"/machines/{vm.uuid}/backups/plan/", {"every_days": "7", "keep": "4"})
        assert BackupPlan.objects.get().keep == 4
        assert browser(viewer).post(f"/machines/{vm.uuid}/backups/take/").status_code == 403
        assert client.get(f"/machines/{vm.uuid}/backups/9/?for=new").status_code == 404
        client.post(f"/machines/{vm.uuid}/backups/1/new/", {"name": "again"})
        assert VM.objects.filter(name="again").exists()

    def test_api(self, vm: VM, owner: User, outsider: User, api: Callable[..., Any]) -> None:
        answer = api(owner).post(f"/vms/{vm.uuid}/backups")
        assert answer.status_code == 202
        run_to_end(Job.objects.get(kind="vm.backup"))
        path = f"/vms/{vm.uuid}/backups"
        assert api(owner).get(path).json()["items"][0]["state"] == "ready"
        assert api(outsider).get(path).status_code == 404
        plan = api(owner).put(f"{path}/plan", {"every_days": 1, "keep": 3}).json()["plan"]
        assert (plan["every_days"], plan["keep"]) == (1, 3)
        assert api(owner).post(f"{path}/1/restore", {}).status_code == 202
        assert api(owner).post(f"{path}/1/restore", {}).status_code == 409
        assert api(owner).delete(f"{path}/7").status_code == 404
