"""A real worker dies between the allocation and its effect: the sum of what is held stays what a
recount says, at every moment and at the end, however the job ends. On the database of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounts import quotas
from accounts.errors import QuotaExceeded
from accounts.models import Allocation, QuotaLimit, Resource, Team, User
from hosts.models import Host, Network, Pool
from jobs import services as job_services
from jobs.models import Job
from tests.jobs.conftest import (  # noqa: F401 - fixtures
    StartWorker,
    broker,
    failpoints,
    redis,
    settle,
    start_worker,
)
from tests.servers import wait_for
from vms import provisioning, recount
from vms.models import VM

pytestmark = pytest.mark.broker
APP = "tests.vms.worker_on_a_fake"
TAKES = {Resource.MACHINES: 1, Resource.VCPUS: 2, Resource.MEMORY_MIB: 512, Resource.DISK_GIB: 3}


def held() -> dict[str, int]:
    return {resource: amount for resource, amount in quotas.usage(_team()).items() if amount}


def _team() -> Team:
    return User.objects.get(username="owner").personal_team


def request(name: str) -> tuple[VM, Job]:
    return provisioning.request_vm(
        actor=User.objects.get(username="owner"),
        team=None,
        name=name,
        image=None,
        vcpus=2,
        memory_mib=512,
        disk_gib=3,
        start=False,
    )


@pytest.mark.parametrize(
    ("how", "ends"), [("goes on", "succeeded"), ("breaks", "failed"), ("is cancelled", "cancelled")]
)
def test_what_is_held_is_what_a_recount_says(
    how: str,
    ends: str,
    start_worker: StartWorker,  # noqa: F811
    failpoints: Path,  # noqa: F811
    host: Host,
    pool: Pool,
    network: Network,
    owner: User,
) -> None:
    QuotaLimit.objects.filter(scope="site", resource=Resource.MACHINES).update(hard=1)
    lines = ["vm.create/claim:after kill-worker"]
    if how == "breaks":
        lines.append("vm.create/define:before-do raise 0")
    failpoints.write_text("\n".join(lines))
    first = start_worker(children=1, app=APP)
    vm, job = request("web-1")
    wait_for(lambda: not first.alive(), "the worker is dead")
    job.refresh_from_db()
    assert job.state == "running"
    assert not job.steps.exclude(state="pending").exists(), "nothing was done yet"
    assert held() == TAKES
    assert set(Allocation.objects.values_list("state", flat=True)) == {"held"}
    assert recount.run(repair=True).differences == []
    assert held() == TAKES, "what a job owns is left to it"
    with pytest.raises(QuotaExceeded):
        request("web-2")

    if how == "is cancelled":
        job_services.cancel(job, actor=owner)
    start_worker(children=1, app=APP)
    settle(job)
    job.refresh_from_db()
    assert job.state == ends, job.error_code
    assert recount.run(repair=False).differences == []
    assert held() == (TAKES if ends == "succeeded" else {})
    assert not Allocation.objects.exclude(state="active").exists()
    vm.refresh_from_db()
    assert (vm.deleted_at is None) is (ends == "succeeded")
