"""Machines on a fake hypervisor: jobs run in the test's own process, as far as they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Team, User
from hosts import connections
from hosts.models import Host, Network, Pool
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs import engine
from jobs.models import Job
from vms import provisioning
from vms.models import VM, Flavor, Image, ImageCopy

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@laptop"
ROUNDS = 40  # more than any job of these tests parks


@pytest.fixture
def fake(host: Host, pool: Pool, network: Network, image: Image) -> Iterator[FakeHypervisor]:
    """Host alpha, with the image's copy in its pool."""
    hypervisor = FakeHypervisor("alpha")
    hypervisor.create_volume(
        VolumeSpec(
            pool="default",
            name=image.volume_name,
            capacity_bytes=image.virtual_size_bytes,
            format="qcow2",
        )
    )
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.READY)
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


@pytest.fixture
def ask(image: Image, small: Flavor, network: Network, team: Team) -> Callable[..., tuple[VM, Job]]:
    """``ask(owner, copy="full")``: a machine is requested, nothing is done yet."""

    def make(actor: User, **changes: Any) -> tuple[VM, Job]:
        wanted: dict[str, Any] = {
            "actor": actor,
            "team": team,
            "name": "web-9",
            "image": image,
            "flavor": small,
            "network": "default",
            "password": "correct horse",
            "ssh_keys": [KEY],
        }
        return provisioning.request_vm(**(wanted | changes))

    return make


def step_on(job: Job) -> Job:
    """Run it once, as a worker would on its hint; a parked job is woken first."""
    Job.objects.filter(pk=job.pk, worker="").exclude(lease_until=None).update(
        lease_until=timezone.now() - timedelta(seconds=1)  # SQLite's clock has milliseconds
    )
    engine.run(job.pk)
    job.refresh_from_db()
    return job


def run_until(job: Job, reached: Callable[[Job], bool], what: str) -> Job:
    for _ in range(ROUNDS):
        if reached(step_on(job)):
            return job
    raise AssertionError(
        f"{job.kind} never came to {what}: {job.state} at {job.step}, waits for "
        f"{job.waiting_for!r}, {job.error_code} {job.error_params}"
    )


def run_to_end(job: Job) -> Job:
    return run_until(job, lambda job: job.is_over, "an end")


def run_until_parked(job: Job, waiting_for: str) -> Job:
    return run_until(job, lambda job: job.waiting_for == waiting_for, f"waiting for {waiting_for}")


@pytest.fixture
def made(
    fake: FakeHypervisor, ask: Callable[..., tuple[VM, Job]], owner: User
) -> Callable[..., VM]:
    """``made(start=False)``: a machine whose creation is over, first boot and all."""

    def make(actor: User | None = None, **changes: Any) -> VM:
        vm, job = ask(actor or owner, **changes)
        if changes.get("start", True):
            run_until_parked(job, "address")
            fake.guest_boots(vm.uuid)
            VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED, job.error_code
        vm.refresh_from_db()
        return vm

    return make


def volumes(fake: FakeHypervisor) -> set[str]:
    """What machines have in the pool: everything but images' copies, and serial logs of domains
    that are there."""
    logs = {f"kvmweb-{facts.uuid}-serial.log" for facts in fake.list_domains()}
    return {
        facts.name
        for facts in fake.list_volumes("default")
        if not facts.name.startswith("kvmweb-image-") and facts.name not in logs
    }
