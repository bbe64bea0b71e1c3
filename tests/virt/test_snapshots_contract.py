"""Snapshots and copies of running disks: the contract, kept by the fake and by libvirt alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hosts.virt.errors import AlreadyExists, NoSuchDomain, NoSuchSnapshot, WrongState
from hosts.virt.spec import (
    DomainSpec,
    DomainState,
    SnapshotFacts,
    SnapshotSpec,
)
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
