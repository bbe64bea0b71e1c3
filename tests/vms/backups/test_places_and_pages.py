"""Where backups lie, and their tab, dialogs and API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from accounts.errors import Conflict
from accounts.models import User
from hosts import services as host_services
from hosts.models import Pool
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.backups.helpers import content, ranged, taken, write
from tests.vms.conftest import run_to_end
from vms.backups import commands, services
from vms.models import VM, BackupPlan

Made = Callable[..., VM]


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
