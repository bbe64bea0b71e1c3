"""Copies of running disks, backups, and disks that are pulled off their backing: the contract, kept
by the fake and by libvirt alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from hosts.virt.errors import NoSuchVolume, UnknownVirtError, WrongState
from hosts.virt.spec import DiskCopy, DomainSpec, DomainState, VolumeSpec
from hosts.virt.xml.copies import backup_xml, copy_target_xml, is_mirrored
from tests.virt.test_contract import MIB, POOL, World, no_progress, world  # noqa: F401

Check = Callable[[str, str], None]


# --- shapes ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("path", ["/pool/copy.qcow2", "/dev/vg/copy"])
def test_shape_of_a_backup(path: str, golden: Check, schema: Check) -> None:
    text = backup_xml({"vda": path, "vdb": f"{path}.second"})
    golden("backup" + ("-block" if path.startswith("/dev/") else ""), text)
    schema("domainbackup", text)


# --- on a host ------------------------------------------------------------------------------------


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


def overlay(world: World) -> DomainSpec:  # noqa: F811
    """Defined, off, its disk on another volume."""
    base = world.made_volume()
    top = world.made_volume(backing_volume=base.name, backing_format="qcow2")
    spec = world.domain()
    spec = replace(spec, disks=(replace(spec.disks[0], volume=top.name),))
    world.hypervisor.define(spec)
    return spec


def test_a_backup_of_a_running_disk(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = overlay(world)
    copy = world.made_volume()
    wanted = [DiskCopy(target="vda", pool=POOL, volume=copy.name)]
    with pytest.raises(WrongState):
        hypervisor.begin_backup(spec.uuid, wanted)
    hypervisor.start(spec.uuid)
    hypervisor.begin_backup(spec.uuid, wanted)
    hypervisor.finish_backup(spec.uuid, no_progress)
    hypervisor.begin_backup(spec.uuid, wanted)
    hypervisor.begin_backup(spec.uuid, wanted)  # the one before is given up
    hypervisor.stop_copies(spec.uuid)
    hypervisor.stop_copies(spec.uuid)
    with pytest.raises(UnknownVirtError):
        hypervisor.finish_backup(spec.uuid, no_progress)
    assert hypervisor.domain(spec.uuid).state is DomainState.RUNNING
    hypervisor.force_off(spec.uuid)
    hypervisor.stop_copies(spec.uuid)
    assert hypervisor.volume(POOL, copy.name).backing_path is None


def test_a_disk_is_pulled_off_its_backing(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = overlay(world)
    volume = spec.disks[0].volume
    with pytest.raises(WrongState):
        hypervisor.pull_backing(spec.uuid, "vda", no_progress)
    hypervisor.start(spec.uuid)
    hypervisor.pull_backing(spec.uuid, "vda", no_progress)
    hypervisor.pull_backing(spec.uuid, "vda", no_progress)  # and again: nothing to do
    assert hypervisor.domain(spec.uuid).state is DomainState.RUNNING
    hypervisor.force_off(spec.uuid)
    hypervisor.refresh_pool(POOL)
    assert hypervisor.volume(POOL, volume).backing_path is None
    hypervisor.start(spec.uuid)


def test_a_volume_is_read_as_it_is_asked_for(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    content = bytes(range(256)) * (3 * MIB // 256)
    volume = world.volume(format="raw", capacity_bytes=len(content))
    hypervisor.create_volume(volume)
    hypervisor.upload_volume(POOL, volume.name, io.BytesIO(content), len(content), no_progress)

    def rest(offset: int) -> bytes:
        reader = hypervisor.open_volume(POOL, volume.name, offset)
        try:
            assert reader.size_bytes == len(content)
            return b"".join(iter(reader.read, b""))
        finally:
            reader.close()
            reader.close()

    assert rest(0) == content
    assert rest(2 * MIB + 5) == content[2 * MIB + 5 :]
    assert rest(len(content)) == b""
    reader = hypervisor.open_volume(POOL, volume.name)
    assert content.startswith(reader.read())
    reader.close()  # in the middle
    with pytest.raises(NoSuchVolume):
        hypervisor.open_volume(POOL, "nothing.qcow2")
