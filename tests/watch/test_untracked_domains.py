"""Domains without a row are listed, machines that were lost are taken up again, and nobody's
domain is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from uuid import uuid4

import pytest

from accounts.errors import Conflict
from accounts.models import Allocation, Team, User
from hosts import connections
from hosts.models import Host, Pool, Untracked
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DiskSpec, DomainSpec, VolumeSpec
from tests.watch.conftest import QUICK, define, domain_of, eventually, sees, watched
from vms import adoption
from vms.hardware import presentation
from vms.knobs import knobs_of
from vms.models import VM
from vms.provisioning.domain import domain_spec


def test_a_strangers_domain_is_listed_and_not_called_ours(host: Host, fake: FakeHypervisor) -> None:
    stranger = DomainSpec(uuid=uuid4(), name="theirs", vcpus=1, memory_mib=64, disks=())
    with watched(host, QUICK):
        fake.define(stranger)
        eventually(lambda: Untracked.objects.filter(name="theirs").exists(), "it to be listed")
        row = Untracked.objects.get(name="theirs")
        assert not row.tagged
        fake.start(stranger.uuid)
        eventually(lambda: Untracked.objects.get(name="theirs").state == "running", "its new state")
        fake.vanish(stranger.uuid)
        eventually(lambda: not Untracked.objects.exists(), "it to leave the list")


def test_a_clone_made_by_hand_is_not_ours(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    """``virt-clone`` copies our metadata into a domain with another UUID."""
    clone = dataclasses.replace(domain_of(machine), uuid=uuid4(), name="clone", nics=())
    with watched(host, QUICK):
        fake.define(clone)
        eventually(lambda: Untracked.objects.filter(name="clone").exists(), "it to be listed")
    assert not Untracked.objects.get(name="clone").tagged


def test_after_the_database_was_lost_a_domain_is_taken_in(
    machine: VM, host: Host, fake: FakeHypervisor, owner: User, admin: User
) -> None:
    uuid, volume = machine.uuid, machine.disks.all()[0].volume
    machine.delete()
    with watched(host, QUICK):
        eventually(lambda: Untracked.objects.filter(tagged=True).exists(), "it to be listed")
    row = Untracked.objects.get()
    assert row.facts["owner"] == "owner"
    vm = adoption.adopt(row, actor=admin)
    assert (vm.uuid, vm.name, vm.owner, vm.team.name) == (uuid, "web-1", owner, "rivendell")
    assert [disk.volume for disk in vm.disks.all()] == [volume]
    assert vm.disks.all()[0].size_gib == 10
    held = dict(Allocation.objects.filter(vm=vm).values_list("resource", "amount"))
    assert held == {"machines": 1, "vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    with watched(host, QUICK):
        sees(vm, "running")


def test_what_another_site_made_cannot_be_taken_in(
    fake: FakeHypervisor,
    host: Host,
    make_vm: Callable[..., VM],
    owner: User,
    team: Team,
    admin: User,
) -> None:
    vm = make_vm(owner, team)
    define(fake, vm, site="another-site")
    vm.delete()
    with watched(host, QUICK):
        eventually(Untracked.objects.exists, "it to be listed")
    with pytest.raises(Conflict) as refused:
        adoption.adopt(Untracked.objects.get(), actor=admin)
    assert refused.value.code == "adopt.not_ours"
    assert not VM.objects.exists()


def test_a_lost_machine_that_turns_up_on_another_host_lives_there(
    machine: VM, host: Host, fake: FakeHypervisor, pool: Pool
) -> None:
    beta = Host.objects.create(name="beta", transport=Host.Transport.LOCAL)
    other_fake = FakeHypervisor("beta")
    with (
        connections.use_fake({"alpha": fake, "beta": other_fake}),
        watched(host, QUICK),
        watched(beta, QUICK),
    ):
        sees(machine, "running")
        fake.vanish(machine.uuid)
        sees(machine, "missing")
        define(other_fake, machine)
        sees(machine, "running")
    machine.refresh_from_db()
    assert machine.host == beta
    assert machine.disks.all()[0].pool == beta.pools.get(name="default")


def test_a_copy_on_another_host_takes_nothing_from_a_machine_that_is_there(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    beta = Host.objects.create(name="beta", transport=Host.Transport.LOCAL)
    other_fake = FakeHypervisor("beta")
    define(other_fake, machine, start=False)
    with (
        connections.use_fake({"alpha": fake, "beta": other_fake}),
        watched(host, QUICK),
        watched(beta, QUICK),
    ):
        sees(machine, "running")
        other_fake.start(machine.uuid)
        other_fake.force_off(machine.uuid)
        calls = other_fake.calls["list_domains"]
        eventually(lambda: other_fake.calls["list_domains"] > calls + 3, "several lists")
    machine.refresh_from_db()
    assert machine.host == host
    assert machine.observed == "running"
    assert isinstance(domain_of(machine).disks[0], DiskSpec)


def test_it_is_built_as_before(
    fake: FakeHypervisor,
    host: Host,
    make_vm: Callable[..., VM],
    owner: User,
    team: Team,
    admin: User,
) -> None:
    """What it is built of comes from its definition, so that defining it again changes nothing."""
    vm = make_vm(owner, team)
    vm.firmware = "secureboot"
    vm.hardware = {"tpm": True, "cpu_mode": "custom", "cpu_model": "EPYC", "watchdog": "reset"}
    vm.hardware |= {"sockets": 1, "cores": vm.vcpus, "threads": 1, "rng": False, "video": "vga"}
    vm.autostart = True
    vm.save()
    vm.disks.update(bus="scsi", target="sdg", cache="none", io="native")
    before = domain_spec(vm)
    volume = vm.disks.get().volume
    fake.create_volume(VolumeSpec(pool="default", name=volume, capacity_bytes=10 << 30))
    fake.define(before)
    facts = fake.domain(vm.uuid)
    vm.delete()
    how = adoption.built(facts, fake)
    adoption.note_stranger(host, facts, adoption.disk_sizes(facts, fake), how)
    again = adoption.adopt(Untracked.objects.get(), actor=admin)
    assert presentation.of(again, admin).built == knobs_of(again)
    after = domain_spec(again)
    for name in (f.name for f in dataclasses.fields(DomainSpec)):
        if name not in ("cdroms", "os_id", "description"):
            assert getattr(after, name) == getattr(before, name), name
