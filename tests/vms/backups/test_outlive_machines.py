"""What stays of a machine that is deleted: its backups, and disks that are kept as such."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, NotFound, QuotaExceeded
from accounts.models import QuotaLimit, Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import NoSpace, UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.backups.helpers import content, held, taken, with_two_disks, write
from tests.vms.conftest import run_to_end, volumes
from vms import lifecycle, recycle_bin
from vms.backups import services
from vms.models import VM, Backup, Image

Made = Callable[..., VM]


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
