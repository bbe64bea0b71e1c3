"""Many machines from one form: all within the quota or none, each with its own progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Allocation, QuotaLimit, Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import KEY, run_to_end, run_until_parked, step_on
from vms import batches, provisioning
from vms.models import VM, Batch, Flavor, Image
from vms.provisioning.batch import numbered

AskMany = Callable[..., Batch]


@pytest.fixture
def ask_many(image: Image, small: Flavor, network: Any, team: Team) -> AskMany:
    QuotaLimit.objects.filter(scope="site").update(hard=QuotaLimit.UNLIMITED)

    def make(actor: User, count: int = 3, **changes: Any) -> Batch:
        wanted: dict[str, Any] = {
            "actor": actor,
            "team": team,
            "name": "lab",
            "image": image,
            "flavor": small,
            "ssh_keys": [KEY],
        }
        return provisioning.request_batch(count=count, **(wanted | changes))

    return make


def test_names_sort() -> None:
    assert numbered("lab", 3) == ["lab-1", "lab-2", "lab-3"]
    names = numbered("web-", 12)
    assert (names[0], names[-1]) == ("web-01", "web-12")
    assert names == sorted(names)
    assert len(numbered("x", 100)[0]) == len("x-001")


def test_each_is_a_machine_of_its_own(ask_many: AskMany, owner: User, team: Team) -> None:
    batch = ask_many(owner, 12, tags=["course"])
    vms = list(VM.objects.filter(batch=batch).order_by("batch_number"))
    assert [vm.name for vm in vms] == [f"lab-{n:02d}" for n in range(1, 13)]
    assert [vm.hostname for vm in vms] == [vm.name for vm in vms]
    assert len({vm.uuid for vm in vms}) == len({vm.nics.get().mac for vm in vms}) == 12
    assert Job.objects.filter(kind="vm.create").count() == 12
    used = quotas.usage(team)
    assert (used[Resource.MACHINES], used[Resource.DISK_GIB]) == (12, 120)
    assert used[Resource.RUNNING_MEMORY_MIB] == 12 * 1024
    assert not Allocation.objects.filter(vm__isnull=True).exists()


def test_all_or_none(ask_many: AskMany, owner: User, team: Team, make_vm: Any) -> None:
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.MACHINES, hard=3)
    with pytest.raises(QuotaExceeded) as caught:
        ask_many(owner, 5)
    assert caught.value.params["missing"] == 2  # what all of them lack, not one
    assert not VM.objects.exists()
    assert not Batch.objects.exists()
    assert not Allocation.objects.exists()
    make_vm(owner, team, "lab-2")
    with pytest.raises(Invalid) as refused:
        ask_many(owner, 3)
    assert refused.value.fields == {"name": "vm.batch_names_taken"}
    assert VM.objects.count() == 1


@pytest.mark.parametrize("count", [0, 1, 101, -3])
def test_how_many(ask_many: AskMany, owner: User, count: int) -> None:
    with pytest.raises(Invalid):
        ask_many(owner, count)


def test_the_same_form_twice_is_one_batch(ask_many: AskMany, owner: User) -> None:
    first = ask_many(owner, idempotency_key="k1")
    assert ask_many(owner, idempotency_key="k1") == first
    assert VM.objects.count() == 3
    with pytest.raises(Conflict):
        ask_many(owner, 4, idempotency_key="k1")


def test_who_may(ask_many: AskMany, viewer: User, outsider: User, owner: User) -> None:
    with pytest.raises(Forbidden):
        ask_many(viewer)
    with pytest.raises(NotFound):
        ask_many(outsider)
    batch = ask_many(owner)
    assert batches.one(viewer, batch.uuid) == batch
    with pytest.raises(NotFound):
        batches.one(outsider, batch.uuid)
    with pytest.raises(Forbidden):
        provisioning.retry_failed(batch, actor=viewer)


def test_they_boot_a_few_at_a_time(
    ask_many: AskMany, fake: FakeHypervisor, owner: User, host: Host
) -> None:
    Host.objects.filter(pk=host.pk).update(cpus=2)
    ask_many(owner, 4)
    jobs = list(Job.objects.filter(kind="vm.create").order_by("created_at"))
    for job in jobs:
        step_on(job)
    waiting = [job for job in jobs if job.waiting_for == "turn"]
    assert len(waiting) == 2
    for job in jobs:
        if job.waiting_for == "address":
            vm = VM.objects.get(jobs=job)
            fake.guest_boots(vm.uuid)
            VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE)
            run_to_end(job)
    for job in waiting:
        run_until_parked(job, "address")


def test_the_failed_ones_again(
    ask_many: AskMany, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    batch = ask_many(owner, start=False)
    jobs = list(Job.objects.filter(kind="vm.create").order_by("created_at"))
    run_to_end(jobs[0])
    fake.fail_next("define", UnknownVirtError("no"))
    run_to_end(jobs[1])
    run_to_end(jobs[2])
    view = batches.view(batch, owner)
    assert [row.state for row in view.rows] == ["ready", "failed", "ready"]
    assert view.rows[1].why
    assert view.can_retry
    result = provisioning.retry_failed(batch, actor=owner)
    assert len(result.done) == 1
    assert [row.state for row in batches.view(batch, owner).rows] == ["ready", "making", "ready"]
    run_to_end(result.done[0])
    view = batches.view(batch, owner)
    assert [row.name for row in view.rows] == ["lab-1", "lab-2", "lab-3"]
    assert {row.state for row in view.rows} == {"ready"}
    assert provisioning.retry_failed(batch, actor=owner).done == []
    assert quotas.usage(team)[Resource.MACHINES] == 3


class TestPages:
    def test_form_and_page(
        self,
        owner: User,
        image: Image,
        small: Flavor,
        network: Any,
        fake: FakeHypervisor,
        browser: Callable[[User], Client],
    ) -> None:
        client = browser(owner)
        data = {
            "name": "class",
            "count": "3",
            "image": image.pk,
            "flavor": small.pk,
            "network": "default",
            "copy": "linked",
            "password_mode": "generate",
            "start": "on",
        }
        preview = client.post("/machines/new/preview/", data).content.decode()
        assert "class-1 to class-3" in preview
        assert "# the same up to class-3" in preview
        answer = client.post("/machines/new/", data)
        batch = Batch.objects.get()
        assert answer["Location"] == f"/machines/batches/{batch.uuid}/"
        page = client.get(answer["Location"]).content.decode()
        assert "class-1 to class-3: 3 machines" in page
        assert "shown this once" in page
        assert "shown this once" not in client.get(answer["Location"]).content.decode()
        assert (
            "one of 3 made at once"
            in client.get(
                f"/machines/{batch.machines.first().uuid}/"  # type: ignore[union-attr]
            ).content.decode()
        )

    def test_too_many(self, owner: User, image: Image, browser: Callable[[User], Client]) -> None:
        answer = browser(owner).post("/machines/new/", {"name": "x", "count": "101"})
        assert answer.status_code == 422

    def test_api(
        self, owner: User, image: Image, network: Any, team: Team, api: Callable[..., Any]
    ) -> None:
        body = {"name": "lab", "count": 2, "image": image.pk, "vcpus": 1, "memory_mib": 512}
        body |= {"team": team.pk, "user": "me"}
        answer = api(owner).post("/batches", body, key="abc")
        assert answer.status_code == 202
        uuid = answer.json()["uuid"]
        assert [row["name"] for row in answer.json()["machines"]] == ["lab-1", "lab-2"]
        assert api(owner).get(f"/batches/{uuid}").json()["counts"]["making"] == 2
        assert api(owner).get("/batches").json()["count"] == 1
        assert api(owner).post(f"/batches/{uuid}/retry").json() == {"jobs": [], "refused": []}
        assert api(owner).post("/batches", body | {"count": 1}).status_code == 422
        assert api(owner).get("/batches/nonsense").status_code == 404


def test_the_page_asks_no_query_for_each_machine(
    ask_many: AskMany, owner: User, django_assert_max_num_queries: Any
) -> None:
    batch = ask_many(owner, 30)
    with django_assert_max_num_queries(12):
        assert len(batches.view(batch, owner).rows) == 30
