"""A worker dies at each boundary of each step of the jobs that change machines. Whoever claims the
job next ends it; what was there is there, nothing is doubled and the quota is right.

On the fake, in the test's own process: ``tests/faults`` kills real workers on real hosts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import quotas
from accounts.models import Resource, Team, User
from hosts.virt.fake import FakeHypervisor
from jobs import engine, failpoints, registry
from jobs.models import Job
from tests.vms.conftest import volumes
from tests.vms.test_clone_machine import off
from tests.vms.test_snapshots import read, taken, write
from vms import lifecycle
from vms.cloning import requests as cloning
from vms.hardware import requests as hardware
from vms.models import VM
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]
Ask = Callable[[VM, User], Job]


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


def _clone_of_snapshot(vm: VM, owner: User) -> Job:
    snapshot = taken(vm, owner, memory=False)
    off(vm, owner)
    return cloning.request_clone(vm, actor=owner, name="copy", snapshot=snapshot, start=False)[1]


def _disk(vm: VM, owner: User) -> Any:
    disk, job = hardware.add_disk(vm, actor=owner, size_gib=5)
    engine.run(job.pk)
    return disk


def _nic(vm: VM, owner: User) -> Any:
    nic, job = hardware.add_nic(vm, actor=owner, network="default")
    engine.run(job.pk)
    return nic


ASKED: dict[str, Ask] = {
    "vm.snapshot": lambda vm, owner: snapshots.take(vm, actor=owner, name="s")[1],
    "vm.snapshot_revert": lambda vm, owner: snapshots.revert(
        taken(vm, owner, memory=False), actor=owner, start=True
    ),
    "vm.snapshot_delete": lambda vm, owner: snapshots.delete(taken(vm, owner), actor=owner),
    "vm.clone": _clone_of_snapshot,
    "vm.resize": lambda vm, owner: hardware.resize(vm, actor=owner, vcpus=2, memory_mib=2048),
    "vm.boot_order": lambda vm, owner: hardware.set_boot_order(vm, actor=owner, devices=["vda"]),
    "vm.autostart": lambda vm, owner: hardware.set_autostart(vm, actor=owner, autostart=True),
    "vm.disk_add": lambda vm, owner: hardware.add_disk(vm, actor=owner, size_gib=5)[1],
    "vm.disk_grow": lambda vm, owner: hardware.grow_disk(_disk(vm, owner), actor=owner, size_gib=7),
    "vm.disk_remove": lambda vm, owner: hardware.remove_disk(_disk(vm, owner), actor=owner),
    "vm.nic_add": lambda vm, owner: hardware.add_nic(vm, actor=owner, network="default")[1],
    "vm.nic_change": lambda vm, owner: hardware.change_nic(
        _nic(vm, owner), actor=owner, link_up=False
    ),
    "vm.nic_remove": lambda vm, owner: hardware.remove_nic(_nic(vm, owner), actor=owner),
    "vm.restart": lambda vm, owner: hardware.restart(vm, actor=owner),
    "vm.save": lambda vm, owner: lifecycle.request(vm, "save", actor=owner),
    "vm.start_paused": lambda vm, owner: lifecycle.request(
        off(vm, owner), "start_paused", actor=owner
    ),
}
WATCHING = ("address", "firstboot", "finish")


def boundaries(kind: str) -> list[str]:
    steps = [step.key for step in registry.get(kind).steps if step.key not in WATCHING]
    return [f"{kind}/{step}:{when}" for step in steps for when in ("before-do", "after-do")] + [
        f"{kind}/final:before"
    ]


def survive(job: Job, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it to its end; the worker dies once at ``point``."""
    hit: list[str] = []

    def die(name: str) -> None:
        if name == point and not hit:
            hit.append(name)
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "hit", die)
        for _ in range(40):
            with contextlib.suppress(Killed):
                engine.run(job.pk)
            job.refresh_from_db()
            if job.is_over:
                return
            for parked in Job.objects.active():
                # SQLite's clock has no microseconds: "now" would still be to come.
                past = timezone.now() - timedelta(seconds=1)
                Job.objects.filter(pk=parked.pk).update(lease_until=past)
    raise AssertionError(f"{job.kind} after {point}: {job.state} at {job.step}")


@pytest.mark.parametrize("kind", ASKED)
def test_at_each_boundary(
    kind: str,
    made: Made,
    fake: FakeHypervisor,
    owner: User,
    team: Team,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, point in enumerate(boundaries(kind)):
        vm = made(name=f"drill-{number}")
        write(fake, vm, b"data")
        job = ASKED[kind](vm, owner)
        survive(job, point, monkeypatch)
        assert job.state == Job.State.SUCCEEDED, (point, job.error_code)
        for other in Job.objects.active():
            survive(other, "", monkeypatch)
        vm.refresh_from_db()
        assert read(fake, vm) == b"data", point
        assert lifecycle.active_job(vm) is None, point
        for machine in VM.objects.alive():
            _agrees(fake, machine, point)
            engine.run(lifecycle.request(machine, "delete", actor=owner, force=True, purge=True).pk)
        assert volumes(fake) == set(), point
        assert not any(quotas.usage(team).values()), (point, quotas.usage(team))


def _agrees(fake: FakeHypervisor, vm: VM, point: str) -> None:
    """The rows say what the host has, and the quota says what the rows have."""
    facts = fake.domain(vm.uuid)
    assert {d.volume for d in facts.disks if d.device == "disk"} == set(
        vm.disks.values_list("volume", flat=True)
    ), point
    assert {nic.mac for nic in facts.nics} == set(vm.nics.values_list("mac", flat=True)), point
    listed = {found.name for found in fake.snapshots(vm.uuid)}
    assert listed == set(vm.snapshots.values_list("name", flat=True)), point
    held: dict[str, int] = {}
    for resource, amount in vm.allocations.values_list("resource", "amount"):
        held[resource] = held.get(resource, 0) + amount
    wanted = {
        Resource.VCPUS.value: max(vm.vcpus, vm.pending.get("vcpus", 0)),
        Resource.MEMORY_MIB.value: max(vm.memory_mib, vm.pending.get("memory_mib", 0)),
        Resource.DISK_GIB.value: sum(vm.disks.values_list("size_gib", flat=True)),
        Resource.SNAPSHOTS.value: len(listed),
        Resource.RUNNING_MACHINES.value: int(vm.observed in ("running", "paused")),
    }
    assert {key: held.get(key, 0) for key in wanted} == wanted, (point, held)
