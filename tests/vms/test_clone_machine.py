"""Clone a machine: as it is, as it runs, as it was in a snapshot; and who it is afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Membership, QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until, run_until_parked, step_on, volumes
from tests.vms.test_snapshots import read, taken, write
from vms import cloudconfig, lifecycle, seeds, state
from vms.cloning import requests
from vms.models import VM

Made = Callable[..., VM]


def off(vm: VM, actor: User) -> VM:
    run_to_end(lifecycle.request(vm, "force_off", actor=actor))
    vm.refresh_from_db()
    return vm


def finish(fake: FakeHypervisor, vm: VM, job: Job) -> VM:
    """The clone's job to its end, and the one that lends its source."""
    run_until(job, lambda job: job.is_over or job.waiting_for == "address", "its first boot")
    if not job.is_over:
        fake.guest_boots(vm.uuid)
        VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE)
        run_to_end(job)
    for lending in Job.objects.filter(kind="vm.lend"):
        run_to_end(lending)
    vm.refresh_from_db()
    return vm


def cloned(fake: FakeHypervisor, source: VM, actor: User, name: str = "copy", **how: Any) -> VM:
    vm, job = requests.request_clone(source, actor=actor, name=name, **how)
    finish(fake, vm, job)
    assert job.state == Job.State.SUCCEEDED, job.error_code
    return vm


class TestWork:
    @pytest.mark.parametrize("copy", ["linked", "full"])
    @pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
    def test_it_has_the_disk_and_is_somebody_else(
        self, copy: str, running: bool, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        source = made()
        if not running:
            off(source, owner)
        write(fake, source, b"data")
        vm = cloned(fake, source, owner, copy=copy)
        assert read(fake, vm) == b"data"
        facts = fake.domain(vm.uuid)
        assert facts.state is DomainState.RUNNING
        assert (facts.name, vm.hostname, vm.observed) == ("copy", "copy", "running")
        assert facts.uuid != source.uuid
        assert {nic.mac for nic in facts.nics}.isdisjoint(
            nic.mac for nic in fake.domain(source.uuid).nics
        )
        backing = fake.volume("default", f"kvmweb-{vm.uuid}-vda.qcow2").backing_path
        assert bool(backing) is (copy == "linked")
        # The source is as it was, and free again.
        source.refresh_from_db()
        assert source.observed == ("running" if running else "shutoff")
        assert lifecycle.active_job(source) is None
        assert fake.snapshots(source.uuid) == []
        assert quotas.usage(team)[Resource.MACHINES] == 2
        assert not vm.seed_volume

    def test_its_seed_makes_it_somebody_else(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        source = off(made(user_data="#cloud-config\nruncmd: [reboot]\n"), owner)
        vm, job = requests.request_clone(source, actor=owner, name="copy")
        run_until_parked(job, "address")
        vm.refresh_from_db()
        assert vm.seed_volume
        seed = seeds.Seed(
            instance_id=str(vm.uuid), hostname="copy", user="tiny", ssh_keys=("k",), clone=True
        )
        config = yaml.safe_load(seeds.user_data(seed))
        assert cloudconfig.problems(config) == []
        assert config["ssh_deletekeys"] is True
        assert config["bootcmd"][0][:3] == ["cloud-init-per", "instance", "kvmweb-identity"]
        assert "machine-id" in config["bootcmd"][0][-1]
        assert config["users"][0]["lock_passwd"] is False  # the password of the source stays
        assert "passwd" not in config["users"][0]
        assert "ssh_pwauth" not in config
        assert "runcmd" not in config  # was carried out in the source
        assert vm.user_data == ""

    @pytest.mark.parametrize("memory", [True, False])
    def test_of_a_snapshot(
        self, memory: bool, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        source = made()
        write(fake, source, b"then")
        snapshot = taken(source, owner, memory=memory)
        off(source, owner)
        write(fake, source, b"now")
        vm = cloned(fake, source, owner, snapshot=snapshot)
        assert read(fake, vm) == b"then"
        assert read(fake, source) == b"now"
        assert [facts.name for facts in fake.snapshots(source.uuid)] == ["before"]
        assert fake.domain(source.uuid).state is DomainState.SHUTOFF

    def test_the_source_is_held_meanwhile(self, made: Made, fake: FakeHypervisor, owner: User):
        source = off(made(), owner)
        vm, job = requests.request_clone(source, actor=owner, name="copy")
        for verb in ("start", "delete"):
            with pytest.raises(Conflict, match=r"vm\.why\.busy"):
                lifecycle.request(source, verb, actor=owner)
        with pytest.raises(Conflict, match=r"vm\.why\.busy"):
            requests.request_clone(source, actor=owner, name="copy-2")
        lending = Job.objects.get(kind="vm.lend")
        assert step_on(lending).waiting_for == "clone"
        run_until_parked(job, "address")  # its disks are copied: the source is free
        step_on(lending)
        assert lending.state == Job.State.SUCCEEDED
        run_to_end(lifecycle.request(source, "delete", actor=owner))
        assert state.CREATIONS[1] == job.kind
        assert finish(fake, vm, job).observed == "running"

    def test_whose_it_is(
        self, made: Made, fake: FakeHypervisor, owner: User, admin: User, team: Team
    ) -> None:
        source = off(made(), owner)
        vm = cloned(fake, source, admin, start=False)
        assert (vm.owner, vm.team) == (admin, team)
        own = Team.objects.get(personal_of=owner)
        assert cloned(fake, source, owner, "mine", team=own, start=False).team == own
        assert vm.cloned_from == source


class TestRefused:
    def test_by_whom(
        self, made: Made, owner: User, teammate: User, viewer: User, outsider: User
    ) -> None:
        vm = made()
        for person in (teammate, viewer):
            with pytest.raises(Forbidden):
                requests.request_clone(vm, actor=person, name="copy")
        with pytest.raises(NotFound):
            requests.request_clone(vm, actor=outsider, name="copy")

    def test_for_a_team_that_is_not_theirs(
        self, made: Made, owner: User, outsider: User, team: Team
    ) -> None:
        vm = made()
        theirs = Team.objects.get(personal_of=outsider)
        with pytest.raises(NotFound):
            requests.request_clone(vm, actor=owner, name="copy", team=theirs)
        Membership.objects.filter(team=team, user=owner).update(role="viewer")
        assert requests.default_team(vm, owner).personal_of == owner

    def test_over_the_quota(self, made: Made, owner: User, team: Team) -> None:
        vm = made()
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.DISK_GIB, hard=15)
        with pytest.raises(QuotaExceeded):
            requests.request_clone(vm, actor=owner, name="copy")
        assert VM.objects.count() == 1

    def test_a_name_that_is_taken(self, made: Made, owner: User) -> None:
        vm = made()
        with pytest.raises(Invalid) as refused:
            requests.request_clone(vm, actor=owner, name=vm.name)
        assert refused.value.fields == {"name": "vm.name_taken"}

    def test_linked_to_nothing(self, made: Made, owner: User) -> None:
        vm = made(copy="full")
        with pytest.raises(Invalid) as refused:
            requests.request_clone(vm, actor=owner, name="copy", copy="linked")
        assert refused.value.fields == {"copy": "vm.clone_not_linked"}

    def test_a_snapshot_of_one_that_runs(self, made: Made, owner: User) -> None:
        vm = made()
        snapshot = taken(vm, owner)
        with pytest.raises(Conflict, match=r"clone_snapshot_on"):
            requests.request_clone(vm, actor=owner, name="copy", snapshot=snapshot)

    def test_before_its_first_boot(self, made: Made, owner: User) -> None:
        with pytest.raises(Conflict, match=r"first_boot"):
            requests.request_clone(made(start=False), actor=owner, name="copy")


class TestBadLuck:
    @pytest.mark.parametrize(
        "call", ["clone_volume", "define", "start", "revert_snapshot", "delete_snapshot"]
    )
    def test_what_fails_leaves_nothing_and_the_source_as_it_was(
        self, call: str, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        source = made()
        write(fake, source, b"then")
        snapshot = taken(source, owner, memory=False)
        off(source, owner)
        write(fake, source, b"now")
        before = volumes(fake)
        fake.fail_next(call, UnknownVirtError("boom"))
        vm, job = requests.request_clone(source, actor=owner, name="copy", snapshot=snapshot)
        finish(fake, vm, job)
        assert job.state == Job.State.FAILED
        assert volumes(fake) == before
        assert [facts.name for facts in fake.list_domains()] == [source.domain_name]
        assert read(fake, source) == b"now"
        assert [facts.name for facts in fake.snapshots(source.uuid)] == ["before"]
        assert quotas.usage(team)[Resource.MACHINES] == 1
        assert vm.deleted_at is not None
        source.refresh_from_db()
        assert lifecycle.active_job(source) is None
        assert lifecycle.allowed_verbs(source, owner)["start"] is None

    def test_cancelled(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        source = off(made(), owner)
        vm, job = requests.request_clone(source, actor=owner, name="copy")
        job_services.cancel(job, actor=owner)
        finish(fake, vm, job)
        assert len(fake.list_domains()) == 1
        assert lifecycle.active_job(source) is None

    def test_a_host_in_maintenance_takes_none(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        source = off(made(), owner)
        assert source.host is not None
        type(source.host).objects.update(mode="maintenance")
        vm, job = requests.request_clone(source, actor=owner, name="copy")
        finish(fake, vm, job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "placement.maintenance")


class TestPageAndApi:
    def test_page(
        self, made: Made, owner: User, viewer: User, browser: Callable[[User], Client]
    ) -> None:
        vm = made()
        path = f"/machines/{vm.uuid}/clone/"
        page = browser(owner).get(path).content.decode()
        assert "virt-clone" in page
        aside = browser(owner).get(path + "?part=aside&name=x&copy=full&start=on")
        assert "Running machines" in aside.content.decode()
        assert browser(owner).post(path, {"name": "No Good"}).status_code == 422
        answer = browser(owner).post(path, {"name": "copy", "copy": "linked", "start": "on"})
        assert answer.status_code == 302
        made_vm = VM.objects.get(name="copy")
        assert answer["Location"] == f"/machines/{made_vm.uuid}/"
        shown = browser(owner).get(answer["Location"]).content.decode()
        assert "Copying the disks" in shown
        assert browser(viewer).get(path).status_code == 403

    def test_api(self, made: Made, owner: User, api: Callable[..., Any]) -> None:
        vm = made()
        path = f"/vms/{vm.uuid}/clone"
        answer = api(owner).post(path, {"name": "copy", "copy": "linked"}, key="once")
        assert answer.status_code == 202
        assert answer.json()["vm"]["copy"] == "linked"
        again = api(owner).post(path, {"name": "copy", "copy": "linked"}, key="once")
        assert again.json()["vm"]["uuid"] == answer.json()["vm"]["uuid"]
        assert api(owner).post(path, {"name": "two", "snapshot": "none"}).status_code == 422
        assert api(owner).post(path, {"name": "two"}).json()["code"] == "vm.why.busy"
