"""Snapshots and copies of running disks: the contract, kept by the fake and by libvirt alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from hosts.virt.errors import AlreadyExists, NoSuchDomain, NoSuchSnapshot, WrongState
from hosts.virt.spec import (
    DiskCopy,
    DomainSpec,
    DomainState,
    SnapshotFacts,
    SnapshotSpec,
    VolumeSpec,
)
from hosts.virt.xml.copies import copy_target_xml, is_mirrored
from hosts.virt.xml.domain import domain_xml
from hosts.virt.xml.snapshot import snapshot_xml, taken_snapshot_xml
from tests.virt.shapes import DOMAINS, PATHS
from tests.virt.test_contract import MIB, POOL, World, no_progress, world  # noqa: F401

Check = Callable[[str, str], None]
WITH_MEMORY = SnapshotSpec(
    name="before", description="before <the> upgrade", memory=True, disks=("vda", "vdb")
)


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
def test_shape(memory: bool, golden: Check, schema: Check) -> None:
    text = snapshot_xml(replace(WITH_MEMORY, memory=memory))
    golden(f"snapshot-{'memory' if memory else 'disks'}", text)
    schema("domainsnapshot", text)


def test_shape_of_one_that_qemu_took(golden: Check, schema: Check) -> None:
    text = taken_snapshot_xml(
        replace(WITH_MEMORY, memory=False),
        parent="first",
        created_at=1,
        domain_xml=domain_xml(DOMAINS["domain-emulated"], PATHS),
    )
    golden("snapshot-taken", text)
    schema("domainsnapshot", text)


@pytest.mark.parametrize("path", ["/pool/copy.qcow2", "/dev/vg/copy"])
def test_shape_of_a_copys_target(path: str, golden: Check) -> None:
    golden("copy-target" + ("-block" if path.startswith("/dev/") else ""), copy_target_xml(path))


def test_copies_are_ready_when_all_are() -> None:
    disk = '<disk><target dev="{0}"/>{1}</disk>'
    ready, begun = '<mirror ready="yes"/>', "<mirror/>"

    def xml(first: str, second: str) -> str:
        disks = disk.format("vda", first) + disk.format("vdb", second)
        return f"<domain><devices>{disks}</devices></domain>"

    assert is_mirrored(xml(ready, ready), ("vda", "vdb"))
    assert not is_mirrored(xml(ready, begun), ("vda", "vdb"))
    assert not is_mirrored(xml(ready, ""), ("vda", "vdb"))
    assert is_mirrored(xml(ready, ""), ("vda",))


# --- on a host ------------------------------------------------------------------------------------


def listed(world: World, spec: DomainSpec) -> dict[str, SnapshotFacts]:  # noqa: F811
    return {facts.name: facts for facts in world.hypervisor.snapshots(spec.uuid)}


def test_of_a_stopped_domain(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.defined()
    first = SnapshotSpec(name="first", description="one")
    hypervisor.create_snapshot(spec.uuid, first, no_progress)
    with pytest.raises(AlreadyExists):
        hypervisor.create_snapshot(spec.uuid, first, no_progress)
    with pytest.raises(WrongState):
        hypervisor.create_snapshot(spec.uuid, SnapshotSpec(name="m", memory=True), no_progress)
    hypervisor.create_snapshot(spec.uuid, SnapshotSpec(name="second"), no_progress)
    found = listed(world, spec)
    assert [found["first"].parent, found["second"].parent] == ["", "first"]
    assert (found["first"].memory, found["first"].internal) == (False, True)
    assert (found["first"].description, found["second"].current) == ("one", True)
    hypervisor.revert_snapshot(spec.uuid, "first", no_progress)
    assert listed(world, spec)["first"].current
    assert hypervisor.domain(spec.uuid).state is DomainState.SHUTOFF
    hypervisor.delete_snapshot(spec.uuid, "first", no_progress)
    hypervisor.delete_snapshot(spec.uuid, "first", no_progress)
    assert listed(world, spec)["second"].parent == ""
    with pytest.raises(NoSuchSnapshot):
        hypervisor.revert_snapshot(spec.uuid, "first", no_progress)
    hypervisor.undefine(spec.uuid)
    with pytest.raises(NoSuchDomain):
        hypervisor.snapshots(spec.uuid)


def test_with_memory(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.started()
    hypervisor.create_snapshot(spec.uuid, SnapshotSpec(name="m", memory=True), no_progress)
    assert listed(world, spec)["m"].memory
    assert listed(world, spec)["m"].state is DomainState.RUNNING
    hypervisor.force_off(spec.uuid)
    hypervisor.revert_snapshot(spec.uuid, "m", no_progress)
    assert hypervisor.domain(spec.uuid).state is DomainState.RUNNING
    hypervisor.revert_snapshot(spec.uuid, "m", no_progress, paused=True)
    assert hypervisor.domain(spec.uuid).state is DomainState.PAUSED
    hypervisor.delete_snapshot(spec.uuid, "m", no_progress)
    assert listed(world, spec) == {}


def test_of_running_disks(world: World) -> None:  # noqa: F811
    """libvirt itself refuses it; the domain goes on, and goes back to it switched off."""
    hypervisor = world.hypervisor
    second = world.made_volume()
    spec = world.domain()
    disk = replace(spec.disks[0], volume=second.name, target="vdb")
    spec = replace(spec, disks=(*spec.disks, disk))
    hypervisor.define(spec)
    hypervisor.create_snapshot(
        spec.uuid, SnapshotSpec(name="off", disks=("vda", "vdb")), no_progress
    )
    hypervisor.start(spec.uuid)
    live = SnapshotSpec(name="live", disks=("vda", "vdb"))
    hypervisor.create_snapshot(spec.uuid, live, no_progress)
    assert hypervisor.domain(spec.uuid).state is DomainState.RUNNING
    found = listed(world, spec)
    assert (found["live"].parent, found["live"].memory, found["live"].current) == (
        "off",
        False,
        True,
    )
    hypervisor.revert_snapshot(spec.uuid, "live", no_progress)
    assert hypervisor.domain(spec.uuid).state is DomainState.SHUTOFF
    hypervisor.start(spec.uuid)
    hypervisor.delete_snapshot(spec.uuid, "live", no_progress)
    assert set(listed(world, spec)) == {"off"}


@pytest.mark.parametrize("shallow", [False, True], ids=["full", "linked"])
def test_copy_of_a_running_disk(shallow: bool, world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    base = world.made_volume()
    overlay = world.made_volume(backing_volume=base.name, backing_format="qcow2")
    spec = world.domain()
    spec = replace(spec, disks=(replace(spec.disks[0], volume=overlay.name),))
    hypervisor.define(spec)
    copy = world.made_volume(
        backing_volume=base.name if shallow else None, backing_format="qcow2" if shallow else None
    )
    wanted = DiskCopy(target="vda", pool=POOL, volume=copy.name, shallow=shallow)
    with pytest.raises(WrongState):
        hypervisor.copy_running(spec.uuid, [wanted], no_progress)
    hypervisor.start(spec.uuid)
    hypervisor.copy_running(spec.uuid, [wanted], no_progress)
    hypervisor.stop_copies(spec.uuid)
    assert hypervisor.domain(spec.uuid).state is DomainState.RUNNING
    hypervisor.force_off(spec.uuid)
    assert bool(hypervisor.volume(POOL, copy.name).backing_path) is shallow


def test_a_stopped_copy_of_a_running_disk(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.started()
    copy = world.made_volume()

    def stop(_done: int, _total: int) -> None:
        raise InterruptedError

    wanted = [DiskCopy(target="vda", pool=POOL, volume=copy.name)]
    with pytest.raises(InterruptedError):
        hypervisor.copy_running(spec.uuid, wanted, stop)
    hypervisor.stop_copies(spec.uuid)
    hypervisor.force_off(spec.uuid)


def test_linked_copy_of_an_overlay(world: World) -> None:  # noqa: F811
    """It stands on the same backing volume, and holds what the overlay held."""
    hypervisor = world.hypervisor
    base = world.made_volume()
    overlay = world.made_volume(backing_volume=base.name, backing_format="qcow2")
    spec: VolumeSpec = world.volume(backing_volume=base.name, backing_format="qcow2")
    made = hypervisor.clone_volume(POOL, overlay.name, spec, no_progress)
    assert made.backing_path == hypervisor.volume(POOL, overlay.name).backing_path
    assert made.capacity_bytes == 8 * MIB
    out = io.BytesIO()
    hypervisor.download_volume(POOL, spec.name, out, no_progress)
    assert len(out.getvalue()) < 2 * MIB
