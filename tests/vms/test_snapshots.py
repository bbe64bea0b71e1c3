"""Take a snapshot, go back to it, delete it: by whom, when, what it takes and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState, SnapshotSpec
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import run_to_end, step_on
from vms import lifecycle, queries
from vms.models import VM, Snapshot
from vms.snapshots import presentation, requests

Made = Callable[..., VM]


def no_progress(_done: int, _total: int) -> None:
    return None


def taken(vm: VM, actor: User, name: str = "before", **how: Any) -> Snapshot:
    snapshot, job = requests.take(vm, actor=actor, name=name, **how)
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED, job.error_code
    snapshot.refresh_from_db()
    vm.refresh_from_db()
    return snapshot


def write(fake: FakeHypervisor, vm: VM, content: bytes) -> None:
    fake._pools["default"].volumes[f"kvmweb-{vm.uuid}-vda.qcow2"].content = content


def read(fake: FakeHypervisor, vm: VM) -> bytes:
    return fake._pools["default"].volumes[f"kvmweb-{vm.uuid}-vda.qcow2"].content


class TestWork:
    def test_of_a_stopped_machine(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        run_to_end(lifecycle.request(vm, "force_off", actor=owner))
        vm.refresh_from_db()
        write(fake, vm, b"good")
        snapshot = taken(vm, owner, description="before the upgrade")
        assert (snapshot.state, snapshot.memory, snapshot.current) == ("ready", False, True)
        write(fake, vm, b"broken")
        job = requests.revert(snapshot, actor=owner)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert read(fake, vm) == b"good"
        assert fake.domain(vm.uuid).state is DomainState.SHUTOFF
        job = requests.delete(snapshot, actor=owner)
        run_to_end(job)
        assert fake.snapshots(vm.uuid) == []
        assert not Snapshot.objects.exists()
        kinds = list(vm.events.order_by("id").values_list("kind", flat=True))
        done = [kind for kind in kinds if kind.startswith("snapshot.") and kind != "snapshot.asked"]
        assert done == ["snapshot.taken", "snapshot.reverted", "snapshot.deleted"]

    def test_with_memory_it_runs_on_from_there(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner)
        assert snapshot.memory
        run_to_end(lifecycle.request(vm, "force_off", actor=owner))
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        job = requests.revert(snapshot, actor=owner)
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1  # from the request on
        run_to_end(job)
        vm.refresh_from_db()
        assert (vm.observed, vm.desired) == ("running", "running")
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1

    def test_without_memory_it_is_off_afterwards_or_started(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner, memory=False)
        run_to_end(requests.revert(snapshot, actor=owner))
        vm.refresh_from_db()
        assert (vm.observed, vm.desired) == ("shutoff", "stopped")
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        run_to_end(requests.revert(snapshot, actor=owner, start=True))
        vm.refresh_from_db()
        assert vm.observed == "running"
        assert quotas.usage(team)[Resource.RUNNING_VCPUS] == vm.vcpus

    def test_the_tree(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        first = taken(vm, owner, "first")
        taken(vm, owner, "second")
        run_to_end(requests.revert(first, actor=owner))
        taken(vm, owner, "other")
        shown = presentation.of(queries.one(owner, vm.uuid), owner)
        assert [(view.row.name, view.depth) for view in shown.tree] == [
            ("first", 0),
            ("second", 1),
            ("other", 1),
        ]
        assert [view.row.name for view in shown.tree if view.row.current] == ["other"]
        run_to_end(requests.delete(first, actor=owner))
        shown = presentation.of(queries.one(owner, vm.uuid), owner)
        assert [(view.row.name, view.depth) for view in shown.tree] == [("second", 0), ("other", 0)]

    def test_its_size_comes_back_and_is_counted(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner, memory=False)
        Snapshot.objects.update(hardware=snapshot.hardware | {"vcpus": 4, "memory_mib": 4096})
        snapshot.refresh_from_db()
        job = requests.revert(snapshot, actor=owner, start=True)
        assert quotas.usage(team)[Resource.VCPUS] == 4
        run_to_end(job)
        vm.refresh_from_db()
        assert (vm.vcpus, vm.memory_mib) == (4, 4096)
        usage = quotas.usage(team)
        assert (usage[Resource.VCPUS], usage[Resource.RUNNING_MEMORY_MIB]) == (4, 4096)

    def test_ones_of_virsh_are_seen_and_lost_ones_are_kept_in_mind(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        taken(vm, owner, "mine")
        fake.create_snapshot(vm.uuid, SnapshotSpec(name="by-hand"), no_progress)
        fake.delete_snapshot(vm.uuid, "mine", no_progress)
        taken(vm, owner, "next")
        states = dict(Snapshot.objects.values_list("name", "state"))
        assert states == {"mine": "missing", "by-hand": "ready", "next": "ready"}
        assert quotas.usage(team)[Resource.SNAPSHOTS] == 2
        with pytest.raises(Conflict, match=r"snapshot_missing"):
            requests.revert(Snapshot.objects.get(name="mine"), actor=owner)
        run_to_end(requests.delete(Snapshot.objects.get(name="mine"), actor=owner))
        assert not Snapshot.objects.filter(name="mine").exists()

    def test_a_deleted_machine_takes_them_along(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        taken(vm, owner)
        run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True, purge=True))
        assert quotas.usage(team)[Resource.SNAPSHOTS] == 0


class TestRefused:
    @pytest.mark.parametrize("name", ["", "1", "two words", "a/b", "-x", "x" * 64, "<b>"])
    def test_a_name_that_is_none(self, name: str, made: Made, owner: User) -> None:
        vm = made()
        with pytest.raises(Invalid) as refused:
            requests.take(vm, actor=owner, name=name)
        assert refused.value.fields == {"name": "snapshot.name_wrong"}

    def test_twice_the_same_name(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        taken(vm, owner)
        with pytest.raises(Invalid) as refused:
            requests.take(vm, actor=owner, name="before")
        assert refused.value.fields == {"name": "snapshot.name_taken"}

    def test_over_the_quota(self, made: Made, owner: User, team: Team) -> None:
        vm = made()
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.SNAPSHOTS, hard=1)
        taken(vm, owner)
        with pytest.raises(QuotaExceeded):
            requests.take(vm, actor=owner, name="second")

    def test_memory_of_one_that_is_off(self, made: Made, owner: User) -> None:
        vm = made()
        run_to_end(lifecycle.request(vm, "force_off", actor=owner))
        with pytest.raises(Invalid) as refused:
            requests.take(vm, actor=owner, name="x", memory=True)
        assert refused.value.fields == {"memory": "snapshot.no_memory"}

    def test_before_the_first_boot_is_over(self, made: Made, owner: User) -> None:
        vm = made(start=False)
        with pytest.raises(Conflict, match=r"vm\.why\.first_boot"):
            requests.take(vm, actor=owner, name="x")

    def test_by_whom(
        self, made: Made, owner: User, teammate: User, viewer: User, outsider: User
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner)
        for person in (teammate, viewer):
            with pytest.raises(Forbidden):
                requests.take(vm, actor=person, name="x")
            with pytest.raises(Forbidden):
                requests.revert(snapshot, actor=person)
            with pytest.raises(Forbidden):
                requests.delete(snapshot, actor=person)
        with pytest.raises(NotFound):
            requests.revert(snapshot, actor=outsider)

    def test_of_another_machine(self, made: Made, owner: User) -> None:
        snapshot = taken(made(name="one"), owner)
        with pytest.raises(NotFound):
            requests.find(made(name="two"), snapshot.pk)


class TestBadLuck:
    def test_what_fails_leaves_nothing(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        fake.fail_next("create_snapshot", UnknownVirtError("boom"))
        _snapshot, job = requests.take(vm, actor=owner, name="x")
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert not Snapshot.objects.exists()
        assert quotas.usage(team)[Resource.SNAPSHOTS] == 0
        assert fake.snapshots(vm.uuid) == []

    def test_cancelled_before_it_began(self, made: Made, owner: User, team: Team) -> None:
        vm = made()
        _snapshot, job = requests.take(vm, actor=owner, name="x")
        job_services.cancel(job, actor=owner)
        assert not Snapshot.objects.exists()
        assert quotas.usage(team)[Resource.SNAPSHOTS] == 0

    def test_the_name_is_taken_on_the_host(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        fake.create_snapshot(vm.uuid, SnapshotSpec(name="x"), no_progress)
        _snapshot, job = requests.take(vm, actor=owner, name="x")
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "snapshot.name_taken")
        assert [facts.name for facts in fake.snapshots(vm.uuid)] == ["x"]  # not ours to delete

    def test_no_room_for_its_memory_is_said(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        """QEMU only speaks of an input/output error."""
        vm, pool = made(), fake._pools["default"]
        for room, code in ((1 << 40, "virt.unknown"), (1 << 20, "virt.no_space")):
            pool.capacity_bytes = pool.allocation_bytes + room
            fake.fail_next("create_snapshot", UnknownVirtError("save SaveStateEntry: 3(ram): -5"))
            _snapshot, job = requests.take(vm, actor=owner, name="big", memory=True)
            assert run_to_end(job).error_code == code
        assert not Snapshot.objects.exists()

    def test_a_failed_return_leaves_the_machine_as_it_was(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        snapshot = taken(vm, owner, memory=False)
        fake.fail_next("revert_snapshot", UnknownVirtError("boom"))
        job = requests.revert(snapshot, actor=owner)
        run_to_end(job)
        vm.refresh_from_db()
        assert (job.state, vm.observed, vm.desired) == (Job.State.FAILED, "running", "running")
        assert vm.fault_code == "virt.unknown"
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1

    def test_one_thing_at_a_time(self, made: Made, owner: User) -> None:
        vm = made()
        requests.take(vm, actor=owner, name="x")
        with pytest.raises(Conflict):
            requests.take(vm, actor=owner, name="y")
        assert lifecycle.allowed_verbs(vm, owner)["start"] == "vm.why.busy"


class TestPageAndApi:
    def test_page(
        self, made: Made, owner: User, viewer: User, browser: Callable[[User], Client]
    ) -> None:
        vm = made()
        client = browser(owner)
        page = f"/machines/{vm.uuid}/"
        assert "There is no snapshot yet" in client.get(page + "?tab=snapshots").content.decode()
        dialog = client.get(page + "snapshots/?for=take").content.decode()
        assert "Keep its memory too" in dialog
        assert "virsh -c qemu:///system snapshot-create-as" in dialog
        answer = client.post(
            page + "snapshots/take/",
            {"name": "before", "memory": "on"},
            headers={"HX-Request": "true"},
        )
        assert answer.status_code == 204
        step_on(Job.objects.get(kind="vm.snapshot"))
        shown = client.get(page + "?tab=snapshots").content.decode()
        assert "before" in shown
        assert "disks and memory" in shown
        pk = Snapshot.objects.get().pk
        revert = client.get(page + f"snapshots/?for=revert&snapshot={pk}").content.decode()
        assert "is lost" in revert
        assert client.post(page + f"snapshots/{pk}/revert/").status_code == 302
        step_on(Job.objects.get(kind="vm.snapshot_revert"))
        assert client.post(page + f"snapshots/{pk}/delete/").status_code == 302
        assert client.post(page + f"snapshots/{pk}/explode/").status_code == 404
        assert client.get(page + "snapshots/?for=revert&snapshot=999").status_code == 404
        looking = browser(viewer).get(page + "?tab=snapshots").content.decode()
        assert "data-dialog" not in looking.split("snapshots-title")[1]

    def test_api(self, made: Made, owner: User, teammate: User, api: Callable[..., Any]) -> None:
        vm = made()
        path = f"/vms/{vm.uuid}/snapshots"
        answer = api(owner).post(path, {"name": "before"})
        assert answer.status_code == 202
        step_on(Job.objects.get(pk=answer.json()["job"]["id"]))
        listed = api(teammate).get(path).json()
        assert listed["count"] == 1
        assert listed["items"][0]["memory"] is True
        assert listed["items"][0]["revert"]  # a member may not
        pk = listed["items"][0]["id"]
        assert api(owner).get(path).json()["items"][0]["revert"] is None
        answer = api(owner).post(f"{path}/{pk}/revert", {"start": False})
        assert answer.status_code == 202
        step_on(Job.objects.get(pk=answer.json()["job"]["id"]))
        assert api(owner).delete(f"{path}/{pk}").status_code == 202
        assert api(owner).post(path, {"name": "no good"}).status_code in (409, 422)
