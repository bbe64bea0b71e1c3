"""Change what a machine consists of: live, from the next start on, or refused; and what counts."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, DomainError, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import QuotaLimit, Resource, Team, User
from hosts.models import Host, Network
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, step_on, volumes
from tests.vms.test_clone_machine import off
from tests.vms.test_snapshots import taken
from vms import state, timeline
from vms.backups import services as backups
from vms.hardware import requests
from vms.models import VM, Disk, Nic
from vms.services import edit_vm
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]


def do(job: Job) -> Job:
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.error_params)
    return job


def fresh(vm: VM) -> VM:
    vm.refresh_from_db()
    return vm


class TestSize:
    def test_of_one_that_is_off(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = off(made(), owner)
        do(requests.resize(vm, actor=owner, vcpus=2, memory_mib=2048))
        assert (fresh(vm).vcpus, vm.memory_mib, vm.pending) == (2, 2048, {})
        facts = fake.domain(vm.uuid)
        assert (facts.vcpus, facts.memory_mib) == (2, 2048)
        usage = quotas.usage(team)
        assert (usage[Resource.VCPUS], usage[Resource.MEMORY_MIB]) == (2, 2048)
        do(requests.resize(vm, actor=owner, vcpus=1))
        assert quotas.usage(team)[Resource.VCPUS] == 1

    def test_vcpus_are_plugged_in_where_there_is_room(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        do(requests.resize(vm, actor=owner, vcpus=2))
        assert (fresh(vm).vcpus, vm.pending) == (2, {})
        assert quotas.usage(team)[Resource.RUNNING_VCPUS] == 2

    def test_what_waits_is_shown_counts_and_comes_with_the_next_start(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        do(requests.resize(vm, actor=owner, vcpus=8, memory_mib=2048))
        assert (fresh(vm).vcpus, vm.memory_mib) == (1, 1024)
        assert vm.pending == {"vcpus": 8, "memory_mib": 2048}
        usage = quotas.usage(team)
        assert (usage[Resource.VCPUS], usage[Resource.RUNNING_VCPUS]) == (8, 1)
        job = requests.restart(vm, actor=owner)
        assert quotas.usage(team)[Resource.RUNNING_MEMORY_MIB] == 2048  # from the request on
        do(job)
        assert (fresh(vm).vcpus, vm.memory_mib, vm.pending) == (8, 2048, {})
        assert (vm.observed, vm.desired) == ("running", "running")
        facts = fake.domain(vm.uuid)
        assert (facts.vcpus, facts.memory_mib) == (8, 2048)
        usage = quotas.usage(team)
        assert (usage[Resource.VCPUS], usage[Resource.RUNNING_MEMORY_MIB]) == (8, 2048)
        assert vm.events.filter(kind="hardware.in_force").exists()

    def test_the_present_value_takes_it_back(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        do(requests.resize(vm, actor=owner, memory_mib=4096))
        do(requests.resize(vm, actor=owner, memory_mib=1024))
        assert fresh(vm).pending == {}
        assert quotas.usage(team)[Resource.MEMORY_MIB] == 1024

    def test_less_counts_only_once_it_is_true(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        """A guest may keep the memory that its balloon is asked for."""
        vm = made()
        do(requests.resize(vm, actor=owner, memory_mib=512))
        assert fresh(vm).pending == {"memory_mib": 512}
        assert quotas.usage(team)[Resource.MEMORY_MIB] == 1024
        fake.guest_powers_off(vm.uuid)
        state.observe(vm, fake.domain(vm.uuid))
        assert (fresh(vm).memory_mib, vm.pending) == (512, {})
        assert quotas.usage(team)[Resource.MEMORY_MIB] == 512

    def test_refused(
        self, made: Made, owner: User, team: Team, teammate: User, outsider: User
    ) -> None:
        vm = made()
        with pytest.raises(Invalid) as refused:
            requests.resize(vm, actor=owner, vcpus=0, memory_mib=1)
        assert set(refused.value.fields) == {"vcpus", "memory_mib"}
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.VCPUS, hard=2)
        with pytest.raises(QuotaExceeded):
            requests.resize(vm, actor=owner, vcpus=3)
        with pytest.raises(Forbidden):
            requests.resize(vm, actor=teammate, vcpus=2)
        with pytest.raises(NotFound):
            requests.resize(vm, actor=outsider, vcpus=2)
        Host.objects.update(memory_mib=2048)
        with pytest.raises(Conflict, match=r"hardware\.host_memory"):
            requests.resize(vm, actor=owner, memory_mib=30_000)
        assert not Job.objects.filter(kind="vm.resize").exists()

    def test_what_fails_gives_back(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        fake.fail_next("set_vcpus", UnknownVirtError("boom"))
        job = requests.resize(vm, actor=owner, vcpus=4)
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert quotas.usage(team)[Resource.VCPUS] == 1
        assert (fresh(vm).vcpus, vm.fault_code) == (1, "virt.unknown")

    def test_a_guest_that_does_not_stop_is_not_restarted(
        self, made: Made, fake: FakeHypervisor, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vm = made()
        fake.ignores_power_button.add(vm.uuid)
        job = requests.restart(vm, actor=owner)
        run_until_parked(job, "guest")
        monkeypatch.setattr("vms.hardware.steps.SHUTDOWN_PATIENCE", timedelta(0))
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "vm.shutdown_ignored")
        assert (fresh(vm).observed, vm.desired) == ("running", "running")


class TestDisks:
    @pytest.mark.parametrize("running", [True, False])
    def test_add_grow_remove(
        self, running: bool, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made() if running else off(made(), owner)
        disk, job = requests.add_disk(vm, actor=owner, size_gib=5)
        assert quotas.usage(team)[Resource.DISK_GIB] == 15
        do(job)
        assert disk.target == "vdb"
        assert [d.target for d in fake.domain(vm.uuid).disks if d.device == "disk"] == [
            "vda",
            "vdb",
        ]
        assert len(volumes(fake)) == 2
        do(requests.grow_disk(disk, actor=owner, size_gib=7))
        disk.refresh_from_db()
        assert disk.size_gib == 7
        assert fake.volume("default", disk.volume).capacity_bytes == 7 * 1024**3
        assert quotas.usage(team)[Resource.DISK_GIB] == 17
        do(requests.remove_disk(disk, actor=owner))
        assert len(volumes(fake)) == 1
        assert quotas.usage(team)[Resource.DISK_GIB] == 10
        assert not Disk.objects.filter(pk=disk.pk).exists()

    def test_refused(self, made: Made, owner: User, team: Team) -> None:
        vm = made()
        first = requests.find_disk(vm, "vda")
        for size in (5, 10, 100_000):
            with pytest.raises(Invalid):
                requests.grow_disk(first, actor=owner, size_gib=size)
        with pytest.raises(Conflict, match=r"first_disk"):
            requests.remove_disk(first, actor=owner)
        with pytest.raises(NotFound):
            requests.find_disk(vm, "vdz")
        with pytest.raises(QuotaExceeded):
            requests.add_disk(vm, actor=owner, size_gib=195)
        taken(vm, owner)
        with pytest.raises(Conflict, match=r"has_snapshots"):
            requests.grow_disk(first, actor=owner, size_gib=11)

    @pytest.mark.parametrize("call", ["create_volume", "attach_disk"])
    def test_one_that_could_not_be_added_leaves_nothing(
        self, call: str, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        fake.fail_next(call, UnknownVirtError("boom"))
        _disk, job = requests.add_disk(vm, actor=owner, size_gib=5)
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert len(volumes(fake)) == 1
        assert quotas.usage(team)[Resource.DISK_GIB] == 10
        assert vm.disks.count() == 1

    def test_a_guest_that_keeps_it_keeps_its_data(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        disk, job = requests.add_disk(vm, actor=owner, size_gib=5)
        do(job)
        fake.keeps_devices.add(vm.uuid)
        job = requests.remove_disk(disk, actor=owner)
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "virt.guest_keeps_device")
        assert len(volumes(fake)) == 2
        assert vm.disks.count() == 2
        assert quotas.usage(team)[Resource.DISK_GIB] == 15


class TestNics:
    def test_add_unplug_move_remove(
        self, made: Made, fake: FakeHypervisor, owner: User, host: Host, network: Network
    ) -> None:
        vm = made()
        Network.objects.create(host=host, name="lab", uuid=uuid.uuid4(), kind="nat", active=True)
        nic, job = requests.add_nic(vm, actor=owner, network="lab")
        do(job)
        assert nic.mac in {found.mac for found in fake.domain(vm.uuid).nics}
        do(requests.change_nic(nic, actor=owner, link_up=False))
        nic.refresh_from_db()
        assert (nic.link_up, nic.network) == (False, "lab")
        assert [one.link_up for one in fake._domains[vm.uuid].spec.nics] == [True, False]
        do(requests.change_nic(nic, actor=owner, network="default"))
        nic.refresh_from_db()
        assert (nic.link_up, nic.network) == (False, "default")
        do(requests.remove_nic(nic, actor=owner))
        assert len(fake.domain(vm.uuid).nics) == 1
        assert not Nic.objects.filter(pk=nic.pk).exists()

    def test_refused(self, made: Made, owner: User, host: Host) -> None:
        vm = made()
        with pytest.raises(Invalid):
            requests.add_nic(vm, actor=owner, network="nowhere")
        Nic.objects.bulk_create(
            Nic(vm=vm, mac=f"52:54:00:01:00:0{n}", network="x") for n in range(7)
        )
        with pytest.raises(Conflict, match=r"nics_many"):
            requests.add_nic(vm, actor=owner, network="default")
        with pytest.raises(NotFound):
            requests.find_nic(vm, 10**6)


class TestTheRest:
    def test_boot_order(
        self, made: Made, fake: FakeHypervisor, owner: User, network: Network
    ) -> None:
        vm = made()
        mac = vm.nics.get().mac
        with pytest.raises(Invalid, match="boot_no_pxe"):
            requests.set_boot_order(vm, actor=owner, devices=[mac, "vda"])
        network.pxe_by_admin = True
        network.save()
        do(requests.set_boot_order(vm, actor=owner, devices=[mac, "vda"]))
        assert fresh(vm).pending == {"boot_order": [mac, "vda"]}
        off(vm, owner)
        assert fresh(vm).pending == {}
        spec = fake._domains[vm.uuid].spec
        assert (spec.nics[0].boot_order, spec.disks[0].boot_order) == (1, 2)
        for wrong in ([], ["vdz"], ["vda", "vda"]):
            with pytest.raises(Invalid):
                requests.set_boot_order(vm, actor=owner, devices=wrong)

    def test_autostart(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        do(requests.set_autostart(vm, actor=owner, autostart=True))
        assert fresh(vm).autostart
        assert fake.domain(vm.uuid).autostart

    def test_one_thing_at_a_time_and_nothing_of_one_that_is_gone(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        job = requests.set_autostart(vm, actor=owner, autostart=True)
        with pytest.raises(DomainError):
            requests.resize(vm, actor=owner, vcpus=2)
        do(job)
        VM.objects.update(observed="missing")
        with pytest.raises(Conflict, match=r"missing"):
            requests.resize(fresh(vm), actor=owner, vcpus=2)

    def test_a_snapshot_brings_back_what_was_in_force(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner, memory=False)
        do(requests.resize(vm, actor=owner, vcpus=2, memory_mib=2048))
        do(snapshots.revert(snapshot, actor=owner))
        assert (fresh(vm).vcpus, vm.memory_mib, vm.pending) == (1, 1024, {})
        facts = fake.domain(vm.uuid)
        assert (facts.vcpus, facts.memory_mib, facts.state) == (1, 1024, DomainState.SHUTOFF)
        assert quotas.usage(team)[Resource.MEMORY_MIB] == 1024


class TestTimeline:
    def test_before_and_after_and_the_filter(
        self, made: Made, owner: User, api: Callable[..., Any], browser: Callable[[User], Client]
    ) -> None:
        vm = made()
        do(requests.resize(vm, actor=owner, vcpus=2))
        taken(vm, owner)
        path = f"/vms/{vm.uuid}/timeline"
        texts = [one["text"] for one in api(owner).get(path + "?only=settings").json()["items"]]
        assert texts == ["Changed: vcpus 1 → 2"]
        snapshots_only = api(owner).get(path + "?only=snapshots").json()
        assert {one["kind"].split(".")[0] for one in snapshots_only["items"]} == {"snapshot"}
        assert snapshots_only["count"] == len(snapshots_only["items"])
        assert api(owner).get(path + "?only=nonsense").status_code == 422
        page = browser(owner).get(f"/machines/{vm.uuid}/?tab=timeline&only=settings")
        text = page.content.decode().split("timeline-title")[2]
        assert "vcpus 1 → 2" in text
        assert "Snapshot “before”" not in text

    def test_what_is_changed_beside_its_hardware(
        self, made: Made, owner: User, network: Network
    ) -> None:
        network.pxe_by_admin = True
        network.save()
        vm = fresh(off(made(), owner))
        name = vm.name
        edit_vm(vm, actor=owner, name="renamed", tags=["b"], description="one\ntwo " + "x" * 100)
        backups.plan(vm, actor=owner, every_days=1, keep=3)
        backups.plan(vm, actor=owner, every_days=1, keep=5)
        backups.plan(vm, actor=owner, every_days=1, keep=5)
        do(requests.set_boot_order(vm, actor=owner, devices=[vm.nics.get().mac, "vda"]))
        told = [one.text for one in timeline.entries(vm, only="settings")]
        edited = told.pop()
        assert f"name {name} → renamed" in edited
        assert "description – → one two xx" in edited
        assert len(edited) < 200
        assert told.pop() == (
            "Changed: every_days – → 1, keep – → 3, keep_daily – → 0, keep_weekly – → 0"
        )
        assert told.pop() == "Changed: keep 3 → 5"
        assert told == [f"Changed: devices vda → {vm.nics.get().mac} vda"]


class TestPageAndApi:
    def test_page(
        self, made: Made, owner: User, viewer: User, browser: Callable[[User], Client]
    ) -> None:
        vm = made()
        client, page = browser(owner), f"/machines/{vm.uuid}/"
        nic = vm.nics.get().pk
        for query, expected in (
            ("size", "Memory"),
            ("boot", "Place 1"),
            ("disk-add", "virsh -c qemu:///system attach-disk"),
            ("disk-grow&disk=vda", "growpart"),
            ("nic-add", "attach-interface"),
            (f"nic-remove&nic={nic}", "is taken out"),
        ):
            text = client.get(f"{page}hardware/?for={query}").content.decode()
            assert expected in text, query
        assert client.get(f"{page}hardware/?for=nonsense").status_code == 404
        assert client.get(f"{page}hardware/?for=disk-grow&disk=vdq").status_code == 404
        posted = client.post(f"{page}hardware/size/", {"vcpus": "1", "memory_mib": "2048"})
        assert posted.status_code == 302
        step_on(Job.objects.get(kind="vm.resize"))
        shown = client.get(page + "?tab=hardware").content.decode()
        assert "after restart: 2 GiB" in shown
        assert "Shut down and restart now" in shown
        for word, data in (
            ("autostart", {"autostart": "on"}),
            ("nic-change", {"nic": nic, "link": "off"}),
            ("boot", {"boot-1": "vda"}),
            ("disk-add", {"size_gib": "3"}),
            ("disk-grow", {"disk": "vdb", "size_gib": "4"}),
            ("disk-remove", {"disk": "vdb"}),
            ("nic-add", {"network": "default"}),
            ("nic-remove", {"nic": nic}),
            ("restart", {}),
        ):
            answer = client.post(f"{page}hardware/{word}/", data, headers={"HX-Request": "true"})
            assert answer.status_code == 204, (word, answer.content)
            run_to_end(Job.objects.filter(vm=vm).order_by("-created_at")[0])
        assert client.post(f"{page}hardware/nonsense/").status_code == 404
        looking = browser(viewer).get(page + "?tab=hardware").content.decode()
        assert "hardware/?for=" not in looking
        assert browser(viewer).post(f"{page}hardware/restart/").status_code == 403

    def test_api(self, made: Made, owner: User, teammate: User, api: Callable[..., Any]) -> None:
        vm = made()
        path = f"/vms/{vm.uuid}"
        me = api(owner)

        def done(answer: Any) -> dict[str, Any]:
            assert answer.status_code == 202, answer.content
            body: dict[str, Any] = answer.json()
            run_to_end(Job.objects.get(pk=body["job"]["id"]))
            return body

        done(me.put(f"{path}/hardware/size", {"memory_mib": 2048}))
        found = me.get(f"{path}/hardware").json()
        assert found["pending"] == {"memory_mib": 2048}
        assert found["change"] is None
        target = done(me.post(f"{path}/disks", {"size_gib": 2}))["disk"]
        done(me.patch(f"{path}/disks/{target}", {"size_gib": 3}))
        done(me.delete(f"{path}/disks/{target}"))
        nic = done(me.post(f"{path}/nics", {"network": "default"}))["nic"]
        done(me.patch(f"{path}/nics/{nic}", {"link_up": False}))
        assert me.patch(f"{path}/nics/{nic}", {}).status_code == 422
        done(me.delete(f"{path}/nics/{nic}"))
        done(me.put(f"{path}/hardware/boot-order", {"devices": ["vda"]}))
        done(me.put(f"{path}/hardware/autostart", {"autostart": True}))
        done(me.post(f"{path}/hardware/restart"))
        found = me.get(f"{path}/hardware").json()
        assert (found["memory_mib"], found["pending"], found["autostart"]) == (2048, {}, True)
        assert api(teammate).get(f"{path}/hardware").json()["change"]
        assert api(teammate).put(f"{path}/hardware/size", {"vcpus": 2}).status_code == 403
        done(api(teammate).post(f"{path}/hardware/restart"))  # a member has the power button
