"""A backup of several disks: all at one moment, and all or none come back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict
from accounts.models import Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import NoSpace, UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.backups.helpers import content, held, put, ranged, taken, with_two_disks
from tests.vms.conftest import run_to_end, volumes
from vms import lifecycle
from vms.backups import services
from vms.hardware import requests as hardware
from vms.models import VM, Backup, Disk, Image
from vms.provisioning.validation import GIB

Made = Callable[..., VM]


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
