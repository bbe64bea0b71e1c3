"""Backups: whole, checked, restored over the machine or as a new one, and kept as planned."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import Client
from django.utils import timezone
from lxml import etree

from accounts import notifications, quotas, tokens
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import ApiToken, AuditEntry, Membership, QuotaLimit, Resource, Team, User
from hosts import services as host_services
from hosts.models import Host, Pool
from hosts.virt.errors import NoSpace, UnknownVirtError, VirtError
from hosts.virt.fake import FakeHypervisor
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import run_to_end, volumes
from vms import downloads as file_downloads
from vms import lifecycle, ownership, queries, recycle_bin
from vms.backups import commands, downloads, schedule, services
from vms.backups.retention import to_keep
from vms.hardware import requests as hardware
from vms.models import VM, Backup, BackupPlan, Disk, Image
from vms.provisioning.validation import GIB

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


def test_by_the_clock_and_how_many_stay(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    by_hand = taken(vm, owner)
    services.plan(vm, actor=owner, every_days=1, keep=2)
    for _ in range(4):
        BackupPlan.objects.update(next_at=timezone.now() - timedelta(seconds=1))
        schedule.rounds()
        schedule.rounds()  # not twice
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
    schedule.rounds()
    assert not Backup.objects.exists()
    assert BackupPlan.objects.get().next_at > timezone.now()


def test_a_round_that_is_late_moves_no_later_ones(
    vm: VM, fake: FakeHypervisor, owner: User
) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    planned = timezone.now() - timedelta(hours=3)
    BackupPlan.objects.update(next_at=planned)
    schedule.rounds()
    assert BackupPlan.objects.get().next_at == planned + timedelta(days=1)


def test_who_gets_no_backups_is_told_once(
    vm: VM, fake: FakeHypervisor, owner: User, client: Client
) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    lifecycle.request(vm, "start", actor=owner)
    planned = timezone.now() - schedule.TELL_AFTER + timedelta(minutes=1)
    BackupPlan.objects.update(next_at=planned)
    schedule.rounds()
    assert not notifications.of(owner).exists()
    client.force_login(owner)
    page = client.get(f"/machines/{vm.uuid}/?tab=backups").content.decode()
    assert "Could not be begun since" in page
    BackupPlan.objects.update(refused_since=timezone.now() - schedule.TELL_AFTER)
    for _ in range(2):
        BackupPlan.objects.update(next_at=timezone.now())
        schedule.rounds()
    told = notifications.of(owner).get()
    assert (told.code, told.url) == ("backup.put_off", f"/machines/{vm.uuid}/?tab=backups")
    # It is begun as soon as it can be, and then at its hour again.
    for job in Job.objects.active():
        run_to_end(job)
    BackupPlan.objects.update(next_at=timezone.now())
    schedule.rounds()
    plan = BackupPlan.objects.get()
    assert (plan.refused_since, plan.told) == (None, False)


def test_a_planned_backup_that_fails_is_told_of(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    schedule.rounds()
    fake.fail_next("download_volume", UnknownVirtError("no"))
    for job in Job.objects.active():
        run_to_end(job)
    assert notifications.of(owner).get().code == "backup.failed"


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


class TestOfADeletedMachine:
    @pytest.fixture
    def gone(self, vm: VM, fake: FakeHypervisor, owner: User) -> VM:
        write(fake, vm, b"precious")
        taken(vm, owner)
        run_to_end(lifecycle.request(vm, "delete", actor=owner, purge=True))
        vm.refresh_from_db()
        assert vm.deleted_at is not None
        return vm

    def test_it_stays_is_listed_and_comes_back(
        self, gone: VM, fake: FakeHypervisor, owner: User, team: Team, api: Callable[..., Any]
    ) -> None:
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 10
        (listed,) = api(owner).get("/backups").json()["items"]
        assert (listed["vm"], listed["name"], listed["number"]) == (str(gone.uuid), "web-9", 1)
        path = f"/vms/{gone.uuid}/backups/1"
        assert api(owner).get(f"{path}/file").status_code == 200
        assert api(owner).post(f"{path}/restore", {}).status_code == 409
        assert api(owner).post(f"/vms/{gone.uuid}/backups").status_code == 409
        answer = api(owner).post(f"{path}/restore", {"name": "again"})
        assert answer.status_code == 202, answer.content
        made = VM.objects.get(uuid=answer.json()["vm"])
        assert run_to_end(Job.objects.get(pk=answer.json()["job"]["id"])).state == "succeeded"
        assert content(fake, made.disks.get().volume) == b"precious"
        job = Job.objects.get(pk=api(owner).delete(path).json()["job"]["id"])
        run_to_end(job)
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0
        assert api(owner).get("/backups").json() == {"items": [], "count": 0}
        assert api(owner).get(f"/vms/{gone.uuid}/backups").status_code == 404

    def test_its_disk_is_kept_as_one(
        self, vm: VM, fake: FakeHypervisor, owner: User, team: Team, api: Callable[..., Any]
    ) -> None:
        write(fake, vm, b"precious")
        with pytest.raises(Conflict, match="not_in"):
            recycle_bin.purge(vm, actor=owner, keep=["vda"])
        run_to_end(lifecycle.request(vm, "delete", actor=owner))
        answer = api(owner).delete(f"/vms/{vm.uuid}?keep_disk=true")
        job = run_to_end(Job.objects.get(pk=answer.json()["job"]["id"]))
        assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
        (backup,) = services.outliving(owner)
        assert content(fake, backup.image.volume_name) == b"precious"
        assert (backup.image.state, len(backup.image.checksum)) == ("ready", 64)
        assert volumes(fake) == set()
        used = quotas.usage(team)
        assert (used[Resource.BACKUPS_GIB], used[Resource.DISK_GIB]) == (10, 0)

    def test_one_that_cannot_be_kept_is_not_deleted(
        self, vm: VM, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        run_to_end(lifecycle.request(vm, "delete", actor=owner))
        vm.refresh_from_db()
        disk = vm.disks.get().volume
        fake.fail_next("clone_volume", NoSpace("full"))
        job = run_to_end(recycle_bin.purge(vm, actor=owner, keep=["vda"]))
        assert (job.state, job.error_code) == (Job.State.FAILED, "virt.no_space")
        assert volumes(fake) == {disk}
        assert fake.domain(vm.uuid)
        assert not Backup.objects.exists()
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.BACKUPS_GIB, hard=5)
        with pytest.raises(QuotaExceeded):
            recycle_bin.purge(vm, actor=owner, keep=["vda"])
        run_to_end(recycle_bin.purge(vm, actor=owner))
        assert volumes(fake) == set()

    def test_what_is_kept_stays_when_the_rest_fails(
        self, vm: VM, fake: FakeHypervisor, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(fake, vm, b"precious")
        run_to_end(lifecycle.request(vm, "delete", actor=owner))
        vm.refresh_from_db()

        def refuse(_vm: VM) -> None:
            raise UnknownVirtError("no")

        with monkeypatch.context() as broken:
            broken.setattr("vms.seriallog.remove", refuse)  # its disk has gone by then
            job = run_to_end(recycle_bin.purge(vm, actor=owner, keep=["vda"]))
        assert job.state == Job.State.FAILED
        backup = vm.backups.select_related("image").get()
        assert backup.image.state == Image.State.READY
        assert content(fake, backup.image.volume_name) == b"precious"
        assert run_to_end(recycle_bin.purge(vm, actor=owner)).state == Job.State.SUCCEEDED
        assert services.outliving(owner) == [backup]

    def test_asked_on_the_page(self, vm: VM, owner: User, browser: Callable[..., Client]) -> None:
        run_to_end(lifecycle.request(vm, "delete", actor=owner))
        client = browser(owner)
        dialog = client.get(f"/machines/bin/{vm.uuid}/?part=purge").content.decode()
        assert 'name="keep"' in dialog
        client.post(f"/machines/bin/{vm.uuid}/purge/", {"keep": "vda"})
        assert run_to_end(Job.objects.get(kind="vm.delete")).state == Job.State.SUCCEEDED
        assert len(services.outliving(owner)) == 1

    def test_who_may(
        self,
        gone: VM,
        teammate: User,
        outsider: User,
        api: Callable[..., Any],
        browser: Callable[[User], Client],
    ) -> None:
        path = f"/vms/{gone.uuid}/backups/1"
        assert api(outsider).get("/backups").json() == {"items": [], "count": 0}
        assert api(teammate).get("/backups").json()["count"] == 1
        assert api(teammate).get("/backups?page=2").json() == {"items": [], "count": 1}
        for person, refused in ((outsider, 404), (teammate, 403)):
            assert api(person).get(f"{path}/file").status_code == refused
            assert api(person).post(f"{path}/restore", {"name": "x"}).status_code == refused
            assert api(person).delete(path).status_code == refused
        assert "web-9" not in browser(outsider).get("/machines/bin/").content.decode()
        page = browser(teammate).get("/machines/bin/").content.decode()
        assert "web-9" in page
        assert "for=delete" not in page

    def test_pages(self, gone: VM, owner: User, browser: Callable[[User], Client]) -> None:
        client = browser(owner)
        page = client.get("/machines/bin/").content.decode()
        assert f"/machines/{gone.uuid}/backups/1/?for=new" in page
        dialog = client.get(f"/machines/{gone.uuid}/backups/1/?for=new").content.decode()
        assert "stays as it is" not in dialog
        client.post(f"/machines/{gone.uuid}/backups/1/new/", {"name": "again"})
        assert VM.objects.filter(name="again").exists()


def with_two_disks(vm: VM, fake: FakeHypervisor, owner: User, size_gib: int = 3) -> VM:
    _disk, job = hardware.add_disk(vm, actor=owner, size_gib=size_gib)
    assert run_to_end(job).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    put(fake, vm, vda=b"system", vdb=b"data")
    return vm


def put(fake: FakeHypervisor, vm: VM, **contents: bytes) -> None:
    for target, data in contents.items():
        fake._volume("default", vm.disks.get(target=target).volume).content = data


def held(fake: FakeHypervisor, vm: VM) -> dict[str, bytes]:
    return {disk.target: content(fake, disk.volume) for disk in vm.disks.all()}


class TestOfSeveralDisks:
    @pytest.mark.parametrize("on", [True, False])
    def test_all_at_one_moment(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team, on: bool
    ) -> None:
        vm = made()
        if not on:
            run_to_end(lifecycle.request(vm, "force_off", actor=owner))
        vm = with_two_disks(vm, fake, owner)
        backup = taken(vm, owner)
        assert fake.calls["begin_backup"] == int(on)
        files = dict(backup.files)
        assert {t: content(fake, image.volume_name) for t, image in files.items()} == {
            "vda": b"system",
            "vdb": b"data",
        }
        assert {image.state for image in files.values()} == {"ready"}
        assert files["vdb"].checksum == hashlib.sha256(b"data").hexdigest()
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 13
        assert (backup.size_gib, backup.file_size_bytes) == (13, len(b"systemdata"))

    def test_over_the_machine_all_come_back(
        self, vm: VM, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = with_two_disks(vm, fake, owner)
        backup = taken(vm, owner)
        put(fake, vm, vda=b"ruined", vdb=b"ruined")
        # One is grown, one is taken out, and one that the backup does not know is put in.
        run_to_end(hardware.grow_disk(vm.disks.get(target="vda"), actor=owner, size_gib=12))
        run_to_end(hardware.remove_disk(vm.disks.get(target="vdb"), actor=owner))
        disk, job = hardware.add_disk(vm, actor=owner, size_gib=1)
        run_to_end(job)
        Disk.objects.filter(pk=disk.pk).update(target="vdc")
        put(fake, vm, vdc=b"new")
        before = volumes(fake)
        fake.fail_next("define", UnknownVirtError("no"))
        assert run_to_end(services.restore_over(backup, actor=owner)).state == Job.State.FAILED
        assert held(fake, vm) == {"vda": b"ruined", "vdc": b"new"}
        assert (volumes(fake), quotas.usage(team)[Resource.DISK_GIB]) == (before, 13)
        job = run_to_end(services.restore_over(backup, actor=owner))
        assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
        assert held(fake, vm) == {"vda": b"system", "vdb": b"data", "vdc": b"new"}
        sizes = dict(vm.disks.values_list("target", "size_gib"))
        assert sizes == {"vda": 12, "vdb": 3, "vdc": 1}
        assert quotas.usage(team)[Resource.DISK_GIB] == 16
        assert fake.volume("default", vm.disks.get(target="vda").volume).capacity_bytes == 12 * GIB
        assert {d.target for d in fake.domain(vm.uuid).disks} >= {"vda", "vdb"}

    def test_not_over_a_machine_on_another_host(self, vm: VM, owner: User) -> None:
        backup = taken(vm, owner)
        VM.objects.filter(pk=vm.pk).update(host=Host.objects.create(name="beta", transport="local"))
        backup.vm.refresh_from_db()
        with pytest.raises(Conflict, match="other_host"):
            services.restore_over(backup, actor=owner)

    def test_damaged_or_gone(self, vm: VM, fake: FakeHypervisor, owner: User) -> None:
        vm = with_two_disks(vm, fake, owner)
        backup = taken(vm, owner)
        second = dict(backup.files)["vdb"].volume_name
        fake._volume("default", second).content = b"rot"
        assert run_to_end(services.restore_over(backup, actor=owner)).error_code == "backup.damaged"
        fake.delete_volume("default", second)
        job = run_to_end(services.restore_over(backup, actor=owner))
        assert job.error_code == "backup.file_missing"
        assert held(fake, vm) == {"vda": b"system", "vdb": b"data"}

    def test_as_a_new_machine(
        self, vm: VM, fake: FakeHypervisor, owner: User, browser: Callable[[User], Client]
    ) -> None:
        vm = with_two_disks(vm, fake, owner)
        backup = taken(vm, owner)
        made, job = services.restore_as_new(backup, actor=owner, name="again")
        assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
        assert held(fake, made) == {"vda": b"system", "vdb": b"data"}
        assert list(made.disks.values_list("size_gib", flat=True)) == [10, 3]
        path = f"/machines/{vm.uuid}/backups/1/file/"
        assert ranged(browser(owner), path) == (200, b"system")
        assert ranged(browser(owner), f"{path}?disk=vdb") == (200, b"data")
        assert browser(owner).get(f"{path}?disk=vdx").status_code == 404

    def test_deleted_with_all_its_files(
        self, vm: VM, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = with_two_disks(vm, fake, owner)
        backup = taken(vm, owner)
        names = {image.volume_name for _target, image in backup.files}
        run_to_end(services.delete(backup, actor=owner))
        assert not names & {v.name for v in fake.list_volumes("default")}
        assert not Backup.objects.exists()
        assert not Image.objects.filter(source="backup").exists()
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0

    def test_what_fails_leaves_nothing(
        self, vm: VM, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = with_two_disks(vm, fake, owner)
        before = {v.name for v in fake.list_volumes("default")}
        _backup, job = services.take(vm, actor=owner)
        fake.fail_next("download_volume", NoSpace("full"))
        assert run_to_end(job).error_code == "virt.no_space"
        assert {v.name for v in fake.list_volumes("default")} == before
        assert not Image.objects.filter(source="backup").exists()
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 0


class TestKeptDisks:
    """A machine is deleted for good, and some of its disks stay."""

    def test_one_of_two_by_the_api(
        self,
        vm: VM,
        made: Made,
        fake: FakeHypervisor,
        owner: User,
        team: Team,
        api: Callable[..., Any],
        browser: Callable[[User], Client],
    ) -> None:
        other = made(name="web-10", start=False)
        vm = with_two_disks(vm, fake, owner)
        assert api(owner).delete(f"/vms/{vm.uuid}?purge=true&keep=vdx").status_code == 404
        answer = api(owner).delete(f"/vms/{vm.uuid}?purge=true&keep=vdb")
        job = run_to_end(Job.objects.get(pk=answer.json()["job"]["id"]))
        assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
        (backup,) = services.outliving(owner)
        assert (backup.target, backup.has_system, backup.was_running) == ("vdb", False, False)
        assert quotas.usage(team)[Resource.BACKUPS_GIB] == 3
        # It has no system, so no machine is made of it; it becomes a disk of another.
        path = f"/vms/{vm.uuid}/backups/1"
        assert api(owner).post(f"{path}/restore", {"name": "x"}).status_code == 409
        page = browser(owner).get("/machines/bin/").content.decode()
        assert "for=attach" in page
        assert "for=new" not in page
        dialog = browser(owner).get(f"/machines/{vm.uuid}/backups/1/?for=attach").content.decode()
        assert str(other.uuid) in dialog
        answer = api(owner).post(f"{path}/attach", {"vm": str(other.uuid)})
        job = run_to_end(Job.objects.get(pk=answer.json()["job"]["id"]))
        assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
        assert held(fake, other)["vdb"] == b"data"
        assert "vdb" in {disk.target for disk in fake.domain(other.uuid).disks}
        assert quotas.usage(team)[Resource.DISK_GIB] == 13

    def test_asked_for_each_on_the_machines_page(
        self, vm: VM, fake: FakeHypervisor, owner: User, browser: Callable[[User], Client]
    ) -> None:
        vm = with_two_disks(vm, fake, owner)
        vm.disks.filter(target="vdb").update(format="raw")
        client = browser(owner)
        dialog = client.get(f"/machines/{vm.uuid}/?part=confirm&verb=delete").content.decode()
        assert 'name="keep" value="vda">' in dialog
        assert 'name="keep" value="vdb" disabled>' in dialog
        sent = {"purge": "1", "keep": ["vdb"]}
        assert client.post(f"/machines/{vm.uuid}/delete/", sent).status_code == 409
        client.post(f"/machines/{vm.uuid}/delete/", {"purge": "1", "keep": ["vda"]})
        assert run_to_end(Job.objects.get(kind="vm.delete")).state == Job.State.SUCCEEDED
        (backup,) = services.outliving(owner)
        assert [target for target, _image in backup.files] == ["vda"]
        assert backup.has_system

    def test_a_disk_is_added_by_who_may(
        self,
        vm: VM,
        made: Made,
        fake: FakeHypervisor,
        owner: User,
        teammate: User,
        outsider: User,
        team: Team,
        browser: Callable[[User], Client],
    ) -> None:
        backup = taken(vm, owner)
        other = made(name="web-10", start=False)
        with pytest.raises(NotFound):
            services.attach(backup, actor=outsider, to=other)
        with pytest.raises(Forbidden):
            services.attach(backup, actor=teammate, to=other)
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.DISK_GIB, hard=25)
        with pytest.raises(QuotaExceeded):
            services.attach(backup, actor=owner, to=other)
        QuotaLimit.objects.all().delete()
        elsewhere = Host.objects.create(name="beta", transport="local")
        VM.objects.filter(pk=other.pk).update(host=elsewhere)
        other.refresh_from_db()
        with pytest.raises(Conflict, match="other_host"):
            services.attach(backup, actor=owner, to=other)
        VM.objects.filter(pk=other.pk).update(host=vm.host)
        fake._volume("default", backup.image.volume_name).content = b"rot"
        client = browser(owner)
        client.post(f"/machines/{vm.uuid}/backups/1/attach/", {"machine": str(other.uuid)})
        job = run_to_end(Job.objects.get(kind="vm.disk_from_backup"))
        assert job.error_code == "backup.damaged"
        assert other.disks.count() == 1
        assert quotas.usage(team)[Resource.DISK_GIB] == 20


class TestInAnotherPool:
    @pytest.fixture
    def place(self, vm: VM, fake: FakeHypervisor, admin: User) -> Pool:
        assert vm.host is not None
        fake.ensure_pool("vault", "/mnt/vault")
        pool = Pool.objects.create(
            host=vm.host, name="vault", uuid=uuid4(), kind="dir", path="/mnt/vault", active=True
        )
        host_services.set_backup_place(vm.host, pool, actor=admin)
        vm.host.refresh_from_db()
        return pool

    def test_taken_restored_made_of_downloaded_and_deleted(
        self,
        vm: VM,
        place: Pool,
        fake: FakeHypervisor,
        owner: User,
        api: Callable[..., Any],
        browser: Callable[[User], Client],
    ) -> None:
        write(fake, vm, b"precious")
        backup = taken(vm, owner)
        name = backup.image.volume_name
        assert {volume.name for volume in fake.list_volumes("vault")} == {name}
        shown = api(owner).get(f"/vms/{vm.uuid}/backups").json()["items"][0]
        assert shown["place"] == "vault"
        assert "/mnt/vault/" in commands.show_take(vm)[0]
        write(fake, vm, b"ruined")
        assert run_to_end(services.restore_over(backup, actor=owner)).state == "succeeded"
        assert content(fake, vm.disks.get().volume) == b"precious"
        made, job = services.restore_as_new(backup, actor=owner, name="again")
        assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
        disk = made.disks.get()
        assert disk.pool is not None
        assert (disk.pool.name, content(fake, disk.volume)) == ("default", b"precious")
        path = f"/machines/{vm.uuid}/backups/1/file/"
        assert ranged(browser(owner), path) == (200, b"precious")
        run_to_end(services.delete(backup, actor=owner))
        assert fake.list_volumes("vault") == []

    def test_one_that_is_off_is_said(self, vm: VM, place: Pool, owner: User) -> None:
        Pool.objects.filter(pk=place.pk).update(active=False)
        with pytest.raises(Conflict, match="backup_place"):
            services.take(VM.objects.get(pk=vm.pk), actor=owner)

    def test_of_a_running_one(
        self, made: Made, place: Pool, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made(name="web-10")
        backup = taken(vm, owner)
        assert fake.volume("vault", backup.image.volume_name)


class TestWhatStays:
    @staticmethod
    def kept(*days_ago: float, last: int, daily: int = 0, weekly: int = 0) -> list[float]:
        sunday = datetime(2026, 11, 22, 23, 0, tzinfo=timezone.get_default_timezone())
        taken = [(n, sunday - timedelta(days=ago)) for n, ago in enumerate(days_ago)]
        found = to_keep(taken, last=last, daily=daily, weekly=weekly)
        return [days_ago[number] for number in sorted(found)]

    def test_the_last_ones(self) -> None:
        assert self.kept(0, 1, 2, 3, last=2) == [0, 1]
        assert self.kept(last=2, daily=2, weekly=2) == []

    def test_the_newest_of_each_day(self) -> None:
        assert self.kept(0, 0.1, 0.2, 1, 1.5, 4, 5, last=1, daily=3) == [0, 1, 4]

    def test_the_newest_of_each_week(self) -> None:
        # A week begins on Monday: six days before this Sunday is still the same.
        assert self.kept(0, 6, 7, 8, 14, 30, last=1, weekly=3) == [0, 7, 14]

    def test_together(self) -> None:
        days = [float(n) for n in range(40)]
        assert self.kept(*days, last=1, daily=3, weekly=3) == [0, 1, 2, 7, 14]

    def test_a_plan_deletes_the_others(self, vm: VM, owner: User) -> None:
        services.plan(vm, actor=owner, every_days=1, keep=1, keep_daily=2)
        for day in (3, 2, 1):
            row = taken(vm, None)
            Backup.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(days=day))
        taken(vm, None)
        for job in Job.objects.active():
            run_to_end(job)
        assert set(Backup.objects.values_list("number", flat=True)) == {3, 4}


def ranged(client: Client, path: str, asked: str = "", **headers: str) -> tuple[int, bytes]:
    answer = client.get(path, headers={"Range": asked, **headers} if asked else headers)
    if not answer.streaming:
        return answer.status_code, answer.content

    async def whole() -> bytes:
        return b"".join([piece async for piece in answer.streaming_content])

    return answer.status_code, asyncio.run(whole())


def broken_off(
    client: Client, path: str, after_the_first: Callable[[], Any], **said: dict[str, str]
) -> int:
    """How many bytes come when that happens after the first piece."""
    answer = client.get(path, **said)  # type: ignore[arg-type]
    assert answer.status_code == 200

    async def take() -> int:
        got = 0
        async for piece in answer.streaming_content:
            if not got:
                await sync_to_async(after_the_first)()
            got += len(piece)
        return got

    return async_to_sync(take)()


class TestDownload:
    @pytest.fixture(autouse=True)
    def _nobody_downloads(self) -> None:
        """Answers of other tests that nobody read are in cycles, until they are collected."""
        gc.collect()
        downloads._taken.clear()

    @pytest.fixture
    def path(self, vm: VM, fake: FakeHypervisor, owner: User) -> str:
        write(fake, vm, bytes(range(256)) * 10_000)  # several pieces
        taken(vm, owner)
        return f"/machines/{vm.uuid}/backups/1/file/"

    def test_whole_and_from_where_it_broke(
        self, path: str, vm: VM, owner: User, browser: Callable[[User], Client]
    ) -> None:
        whole, client = bytes(range(256)) * 10_000, browser(owner)
        answer = client.get(path)
        backup = vm.backups.get()
        assert answer["ETag"] == f'"{backup.image.checksum}"'
        assert answer["Content-Length"] == str(len(whole)) == str(backup.image.file_size_bytes)
        assert "attachment" in answer["Content-Disposition"]
        assert ranged(client, path) == (200, whole)
        assert hashlib.sha256(whole).hexdigest() == backup.image.checksum
        assert ranged(client, path, "bytes=2000000-") == (206, whole[2_000_000:])
        assert ranged(client, path, "bytes=5-9") == (206, whole[5:10])
        assert ranged(client, path, f"bytes={len(whole)}-")[0] == 416
        tag = {"If-Range": answer["ETag"]}
        assert ranged(client, path, "bytes=7-", **tag) == (206, whole[7:])
        assert ranged(client, path, "bytes=7-", **{"If-Range": '"another"'}) == (200, whole)
        del answer  # of which nobody read
        gc.collect()
        assert not list(downloads._taken)

    def test_by_who_may_and_written_down(
        self,
        path: str,
        vm: VM,
        owner: User,
        teammate: User,
        viewer: User,
        outsider: User,
        browser: Callable[[User], Client],
        api: Callable[..., Any],
    ) -> None:
        assert browser(outsider).get(path).status_code == 404
        for person in (teammate, viewer):
            assert browser(person).get(path).status_code == 403
        assert not AuditEntry.objects.filter(verb="vm.download_backup").exists()
        answer = api(owner).get(f"/vms/{vm.uuid}/backups/1/file")
        assert answer.status_code == 200
        assert api(outsider).get(f"/vms/{vm.uuid}/backups/1/file").status_code == 404
        assert AuditEntry.objects.get(verb="vm.download_backup").actor == owner

    def test_cut_off_when_it_is_not_what_was_written(
        self, path: str, vm: VM, fake: FakeHypervisor, owner: User, browser: Callable[..., Client]
    ) -> None:
        fake._volume("default", vm.backups.get().image.volume_name).content = b"short"
        with pytest.raises(VirtError):
            ranged(browser(owner), path)
        assert not list(downloads._taken)

    def test_refused(
        self, path: str, vm: VM, owner: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        answers = [downloads.take_place(owner.pk) for _ in range(downloads.AT_ONCE_EACH)]
        assert client.get(path).status_code == 429
        answers.clear()
        assert client.get(path).status_code == 200
        Host.objects.update(reach=Host.Reach.DOWN)
        assert client.get(path).status_code == 503
        Host.objects.update(reach=Host.Reach.UP)
        services.delete(vm.backups.get(), actor=owner)
        assert client.get(path).status_code == 409

    def test_what_is_asked_for_together_does_not_all_pass(
        self, path: str, owner: User, browser: Callable[[User], Client]
    ) -> None:
        """Each takes its place before it is read, and gives it back if it never is."""
        client = browser(owner)
        answers = [client.get(path) for _ in range(downloads.AT_ONCE_EACH)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get(path).status_code == 429
        answers.clear()
        gc.collect()
        assert client.get(path).status_code == 200
        gc.collect()
        assert client.get(path, headers={"Range": "bytes=9999999-"}).status_code == 416
        assert not list(downloads._taken)

    @pytest.mark.django_db(transaction=True)
    def test_it_ends_with_what_opened_it(
        self,
        path: str,
        vm: VM,
        owner: User,
        admin: User,
        monkeypatch: pytest.MonkeyPatch,
        browser: Callable[[User], Client],
    ) -> None:
        """The session or the token; and with the right to it."""
        monkeypatch.setattr(file_downloads, "ASK_AGAIN_S", -1)  # before each piece
        whole = vm.backups.get().image.file_size_bytes
        address = f"/api/v1/vms/{vm.uuid}/backups/1/file"

        def by_token(then: Callable[[ApiToken], Any]) -> int:
            token, secret = tokens.issue(owner, "script", ("read",), None)
            headers = {"Authorization": f"Bearer {secret}"}
            return broken_off(Client(), address, lambda: then(token), headers=headers)

        def by_session(then: Callable[[Client], Any]) -> int:
            client = browser(owner)
            return broken_off(client, path, lambda: then(client))

        assert by_token(lambda token: token) == whole
        assert by_token(lambda token: tokens.revoke(owner, token.pk)) < whole
        late = timezone.now() - timedelta(seconds=1)
        tokens_of = ApiToken.objects.filter
        assert by_token(lambda token: tokens_of(pk=token.pk).update(expires_at=late)) < whole
        assert by_session(lambda client: client) == whole
        assert by_session(lambda _client: browser(owner).logout()) == whole
        assert by_session(lambda client: client.logout()) < whole
        looking = browser(admin)
        looking.post(f"/admin/users/{owner.pk}/view-as/")
        assert broken_off(looking, path, lambda: None) == whole
        assert broken_off(looking, path, looking.logout) < whole
        Membership.objects.filter(user=owner, team=vm.team).delete()
        assert by_session(lambda _: VM.objects.filter(pk=vm.pk).update(owner=admin)) < whole

    def test_no_host_is_asked_before_the_first_byte_is_taken(
        self, path: str, fake: FakeHypervisor, owner: User, browser: Callable[[User], Client]
    ) -> None:
        before = sum(fake.calls.values())
        browser(owner).get(path)
        assert sum(fake.calls.values()) == before


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
        plan = {"every_days": "7", "keep": "4", "keep_daily": "0", "keep_weekly": "8"}
        client.post(f"/machines/{vm.uuid}/backups/plan/", plan)
        assert BackupPlan.objects.get().keep_weekly == 8
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
