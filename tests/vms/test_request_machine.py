"""A person asks for a machine: everything is written, or nothing and every reason at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Allocation, AuditEntry, QuotaLimit, Resource, Team, User
from hosts.models import Network
from jobs.models import Job
from vms import provisioning
from vms.models import VM, Disk, Flavor, Image, Nic, VMEvent

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@laptop"


@pytest.fixture
def ask(image: Image, small: Flavor, network: Network) -> Callable[..., tuple[VM, Job]]:
    def make(actor: User, **changes: Any) -> tuple[VM, Job]:
        wanted: dict[str, Any] = {
            "actor": actor,
            "team": None,
            "name": "web-1",
            "image": image,
            "flavor": small,
            "network": "default",
            "ssh_keys": [KEY],
        }
        return provisioning.request_vm(**(wanted | changes))

    return make


def _nothing_written() -> None:
    for model in (VM, Disk, Nic, Allocation, Job, VMEvent):
        assert not model.objects.exists(), model


class TestWritten:
    def test_all_rows(self, ask: Any, owner: User, team: Team, image: Image) -> None:
        vm, job = ask(owner, team=team, tags=["db", "db", "prod"], description=" main ")
        assert (vm.name, vm.domain_name, vm.hostname) == ("web-1", "web-1", "web-1")
        assert vm.owner == owner
        assert vm.team == team
        assert vm.first_user == image.default_user
        assert vm.ssh_keys == [KEY]
        assert vm.observed == VM.Observed.UNKNOWN
        assert vm.host is None
        disk = vm.disks.get()
        assert disk.volume == f"kvmweb-{vm.uuid}-vda.qcow2"
        assert disk.size_gib == 10
        assert disk.backing_image == image
        assert vm.nics.get().mac.startswith("52:54:00:")
        assert [tag.name for tag in vm.tags.all()] == ["db", "prod"]
        assert vm.description == "main"
        assert job.kind == "vm.create"
        assert job.state == Job.State.QUEUED
        assert job.vm == vm
        assert job.target_name == "web-1"
        usage = quotas.usage(team)
        assert usage[Resource.MACHINES] == usage[Resource.RUNNING_MACHINES] == 1
        assert usage[Resource.MEMORY_MIB] == usage[Resource.RUNNING_MEMORY_MIB] == 1024
        assert usage[Resource.DISK_GIB] == 10
        entry = AuditEntry.objects.get(verb="vm.create")
        assert entry.actor == owner
        assert entry.after["image"] == image.name
        assert vm.events.get().kind == "requested"

    def test_a_machine_that_does_not_start_takes_no_running_quota(
        self, ask: Any, owner: User, team: Team
    ) -> None:
        vm, _job = ask(owner, team=team, start=False)
        assert vm.desired == VM.Desired.STOPPED
        usage = quotas.usage(team)
        assert usage[Resource.RUNNING_MACHINES] == 0
        assert usage[Resource.VCPUS] == 1

    def test_without_a_team_the_personal_one_pays(self, ask: Any, outsider: User) -> None:
        vm, _job = ask(outsider)
        assert vm.team == Team.objects.get(personal_of=outsider)

    def test_password_is_stored_as_a_hash_and_is_in_no_job(self, ask: Any, owner: User) -> None:
        vm, job = ask(owner, password="correct horse")
        assert vm.password_hash.startswith("$6$")
        assert "correct horse" not in str(job.params)
        assert vm.password_hash not in str(job.params)
        assert "correct horse" not in str(AuditEntry.objects.get(verb="vm.create").after)

    def test_custom_size(self, ask: Any, owner: User, image: Image) -> None:
        vm, _job = ask(owner, flavor=None, vcpus=3, memory_mib=512)
        assert (vm.vcpus, vm.memory_mib) == (3, 512)
        assert vm.disks.get().size_gib == image.min_disk_gib

    def test_full_copy_is_bulk_work(self, ask: Any, owner: User) -> None:
        vm, job = ask(owner, copy="full")
        assert job.queue == "bulk"
        assert vm.disks.get().backing_image is None

    def test_an_image_without_cloud_init_has_no_first_boot_to_wait_for(
        self, ask: Any, owner: User, image: Image
    ) -> None:
        image.has_cloud_init = False
        image.save()
        vm, _job = ask(owner, ssh_keys=[])
        assert vm.first_boot == VM.FirstBoot.NONE


class TestNames:
    def test_a_name_is_taken_once_in_a_team(self, ask: Any, owner: User, team: Team) -> None:
        ask(owner, team=team)
        with pytest.raises(Invalid) as refused:
            ask(owner, team=team)
        assert refused.value.fields == {"name": "vm.name_taken"}
        assert VM.objects.count() == Job.objects.count() == 1

    def test_two_teams_may_have_the_same_name_but_not_the_same_domain(
        self, ask: Any, owner: User, outsider: User
    ) -> None:
        first, _ = ask(owner)
        second, _ = ask(outsider)
        assert first.name == second.name
        assert first.domain_name == "web-1"
        assert second.domain_name.startswith("web-1-")

    def test_a_deleted_machines_names_are_free_again(
        self, ask: Any, owner: User, make_vm: Any
    ) -> None:
        from django.utils import timezone

        first, job = ask(owner)
        Job.objects.filter(pk=job.pk).update(state="succeeded")
        VM.objects.filter(pk=first.pk).update(deleted_at=timezone.now())
        again, _ = ask(owner)
        assert again.domain_name == "web-1"

    def test_checked_as_typed(self, ask: Any, owner: User, team: Team) -> None:
        ask(owner, team=team)
        assert provisioning.name_problem(team, "web-1") == "vm.name_taken"
        assert provisioning.name_problem(team, "web-2") == ""
        assert provisioning.name_problem(team, "Web 2") != ""


class TestRefused:
    def test_everything_wrong_is_told_at_once(self, ask: Any, owner: User, image: Image) -> None:
        with pytest.raises(Invalid) as refused:
            ask(
                owner,
                name="Web_1",
                hostname="-x",
                flavor=None,
                vcpus=0,
                memory_mib=64,
                disk_gib=0,
                network="nowhere",
                copy="magic",
                user="Root!",
                password="x",
                ssh_keys=["-----BEGIN OPENSSH PRIVATE KEY-----"],
                user_data="#cloud-config\nruncmd: [",
                tags=["a b"],
                description="x" * 501,
            )
        assert set(refused.value.fields) == {
            "name",
            "hostname",
            "vcpus",
            "memory_mib",
            "disk_gib",
            "network",
            "copy",
            "user",
            "password",
            "ssh_keys",
            "user_data",
            "tags",
            "description",
        }
        _nothing_written()

    def test_each_field_has_its_own_numbers(self, ask: Any, owner: User) -> None:
        from accounts import messages

        with pytest.raises(Invalid) as refused:
            ask(owner, name="x" * 64, password="x", tags=[f"t{n}" for n in range(21)])
        texts = messages.field_texts(refused.value)
        assert "63" in texts["name"]
        assert "8" in texts["password"]
        assert "20" in texts["tags"]

    @pytest.mark.parametrize(
        ("changes", "field", "code"),
        [
            ({"flavor": None}, "flavor", "vm.size_missing"),
            ({"vcpus": 2}, "flavor", "vm.flavor_or_custom"),
            ({"flavor": None, "vcpus": 65, "memory_mib": 512}, "vcpus", "vm.vcpus_range"),
            ({"flavor": None, "vcpus": 1, "memory_mib": 2**21}, "memory_mib", "vm.memory_range"),
            ({"flavor": None, "vcpus": 1, "memory_mib": 100}, "memory_mib", "vm.memory_small"),
            ({"disk_gib": 16 * 1024 + 1}, "disk_gib", "vm.disk_range"),
            ({"network": ""}, "network", "vm.network_unknown"),
            ({"ssh_keys": [KEY] * 21}, "ssh_keys", "vm.keys_many"),
        ],
    )
    def test_one_wrong_input(
        self, ask: Any, owner: User, changes: dict[str, Any], field: str, code: str
    ) -> None:
        with pytest.raises(Invalid) as refused:
            ask(owner, **changes)
        assert refused.value.fields == {field: code}
        _nothing_written()

    def test_a_disk_smaller_than_the_image(self, ask: Any, owner: User, image: Image) -> None:
        image.virtual_size_bytes = 11 * 1024**3 + 1
        image.save()
        with pytest.raises(Invalid) as refused:
            ask(owner, disk_gib=11)
        assert refused.value.fields == {"disk_gib": "vm.disk_small"}
        vm, _job = ask(owner)  # the flavor's 10 GiB are too small: what the image needs is taken
        assert vm.disks.get().size_gib == 12

    @pytest.mark.parametrize(
        "changes", [{"published": False}, {"state": Image.State.RETIRED}, {"state": "fetching"}]
    )
    def test_an_image_that_is_not_offered(
        self, ask: Any, owner: User, image: Image, changes: dict[str, Any]
    ) -> None:
        Image.objects.filter(pk=image.pk).update(**changes)
        image.refresh_from_db()
        with pytest.raises(Invalid) as refused:
            ask(owner)
        assert set(refused.value.fields) == {"image"}
        _nothing_written()

    def test_a_network_that_is_not_public(self, ask: Any, owner: User, network: Network) -> None:
        network.public = False
        network.save()
        with pytest.raises(Invalid) as refused:
            ask(owner)
        assert refused.value.fields == {"network": "vm.network_unknown"}

    def test_past_the_quota_nothing_is_written(self, ask: Any, owner: User, team: Team) -> None:
        QuotaLimit.objects.create(scope="team", team=team, resource=Resource.MEMORY_MIB, hard=1023)
        with pytest.raises(QuotaExceeded) as refused:
            ask(owner, team=team)
        assert refused.value.params["missing"] == 1
        _nothing_written()

    def test_teams_of_others(
        self, ask: Any, team: Team, outsider: User, viewer: User, teammate: User
    ) -> None:
        with pytest.raises(NotFound):
            ask(outsider, team=team)
        with pytest.raises(Forbidden):
            ask(viewer, team=team)
        _nothing_written()
        vm, _job = ask(teammate, team=team)
        assert vm.owner == teammate


class TestAskedTwice:
    def test_the_same_key_gives_the_same_machine(self, ask: Any, owner: User) -> None:
        first = ask(owner, idempotency_key="k1")
        second = ask(owner, idempotency_key="k1")
        assert first == second
        assert VM.objects.count() == 1

    def test_the_same_key_for_something_else(self, ask: Any, owner: User) -> None:
        ask(owner, idempotency_key="k1")
        with pytest.raises(Conflict, match="key_reused"):
            ask(owner, name="web-2", idempotency_key="k1")

    def test_keys_of_different_people_do_not_meet(
        self, ask: Any, owner: User, outsider: User
    ) -> None:
        first, _ = ask(owner, idempotency_key="k1")
        second, _ = ask(outsider, idempotency_key="k1")
        assert first != second
