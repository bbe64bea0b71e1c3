"""A linked disk made independent: running by a pull, off by a copy, and never half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, NotFound
from accounts.models import AuditEntry, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs.models import Job
from tests.vms.conftest import run_to_end, volumes
from vms import flattening, lifecycle
from vms.machine_templates import services as templates
from vms.models import VM, Image
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]


def off(vm: VM) -> VM:
    run_to_end(lifecycle.request(vm, "force_off", actor=vm.owner))
    vm.refresh_from_db()
    return vm


def is_independent(vm: VM, fake: FakeHypervisor) -> bool:
    disk = VM.objects.get(pk=vm.pk).disks.get()
    on_host = fake.volume("default", disk.volume).backing_path is None
    assert (disk.backing_image is None) is on_host
    assert fake.domain(vm.uuid).disks[0].volume == disk.volume
    return on_host


@pytest.mark.parametrize("runs", [True, False])
def test_made_independent(
    runs: bool, made: Made, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm = made() if runs else off(made())
    disk, before = vm.disks.get(), quotas.usage(team)
    fake._volume("default", disk.volume).content = b"precious"
    assert not is_independent(vm, fake)
    job = run_to_end(flattening.request(vm, actor=owner))
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.step)
    assert is_independent(vm, fake)
    found = VM.objects.get(pk=vm.pk)
    assert (found.copy, found.observed) == ("full", "running" if runs else "shutoff")
    assert fake._volume("default", found.disks.get().volume).content == b"precious"
    assert (fake.calls["pull_backing"], len(volumes(fake))) == (int(runs), 1)
    assert quotas.usage(team) == before
    with pytest.raises(Conflict, match="independent"):
        flattening.request(vm, actor=owner)
    assert AuditEntry.objects.filter(verb="vm.flatten").exists()


@pytest.mark.parametrize(("runs", "fails"), [(True, "pull_backing"), (False, "define")])
def test_one_that_fails_leaves_it_as_it_was(
    runs: bool, fails: str, made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = made() if runs else off(made())
    before = volumes(fake)
    fake.fail_next(fails, UnknownVirtError("no"))
    job = run_to_end(flattening.request(vm, actor=owner))
    assert job.state == Job.State.FAILED
    assert fake.calls["stop_copies"] == int(runs)  # QEMU would go on by itself
    assert not is_independent(vm, fake)
    assert volumes(fake) == before


def test_one_that_was_started_by_hand_meanwhile_keeps_its_disk(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    """It writes the disk that it has: a copy from before must not take its place."""
    vm = off(made())
    clone, before = fake.clone_volume, volumes(fake)

    def started(*args: Any) -> Any:
        facts = clone(*args)
        fake.start(vm.uuid)
        return facts

    fake.clone_volume = started  # type: ignore[method-assign]
    job = run_to_end(flattening.request(vm, actor=owner))
    assert (job.state, job.error_code) == (Job.State.FAILED, "vm.why.backup_on")
    assert volumes(fake) == before
    assert not is_independent(vm, fake)


def test_a_copy_that_was_begun_goes_when_it_runs_in_the_end(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    """Its worker was killed in the copy, and somebody started it by hand."""
    vm = off(made())
    job = flattening.request(vm, actor=owner)
    begun = f"kvmweb-{vm.uuid}-vda-{job.pk.hex[:8]}.qcow2"
    fake.create_volume(VolumeSpec(pool="default", name=begun, capacity_bytes=1))
    fake.start(vm.uuid)
    assert run_to_end(job).state == Job.State.SUCCEEDED
    assert is_independent(vm, fake)
    assert begun not in volumes(fake)


def test_not_with_snapshots_that_read_what_it_stands_on(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = off(made())
    _row, job = snapshots.take(vm, actor=owner, name="before")
    run_to_end(job)
    with pytest.raises(Conflict, match="has_snapshots"):
        flattening.request(vm, actor=owner)


def test_then_the_template_may_go(made: Made, fake: FakeHypervisor, owner: User) -> None:
    version, job = templates.make(off(made()), actor=owner, name="golden")
    run_to_end(job)
    version.refresh_from_db()
    child = made(name="child", image=version)
    with pytest.raises(Conflict, match="has_children"):
        templates.delete_version(version, actor=owner)
    run_to_end(flattening.request(child, actor=owner))
    run_to_end(templates.delete_version(version, actor=owner))
    assert not Image.objects.filter(pk=version.pk).exists()
    assert is_independent(child, fake)


def test_who_may(made: Made, owner: User, teammate: User, outsider: User) -> None:
    vm = made()
    with pytest.raises(Forbidden):
        flattening.request(vm, actor=teammate)
    with pytest.raises(NotFound):
        flattening.request(vm, actor=outsider)


def test_page_and_api(
    made: Made, owner: User, browser: Callable[[User], Client], api: Callable[..., Any]
) -> None:
    vm, client = made(), browser(owner)
    assert "Make independent" in client.get(f"/machines/{vm.uuid}/?tab=hardware").content.decode()
    dialog = client.get(f"/machines/{vm.uuid}/hardware/?for=disk-flatten&disk=vda")
    assert "virsh -c qemu:///system blockpull" in dialog.content.decode()
    client.post(f"/machines/{vm.uuid}/hardware/disk-flatten/", {"disk": "vda"})
    assert run_to_end(Job.objects.get(kind="vm.flatten")).state == Job.State.SUCCEEDED
    assert api(owner).post(f"/vms/{vm.uuid}/flatten").status_code == 409
