"""The contract of ``Hypervisor``, kept by the fake and by libvirt alike."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from hosts.virt.client import LibvirtHypervisor
from hosts.virt.errors import (
    AlreadyExists,
    ConsoleInUse,
    NoSpace,
    NoSuchDomain,
    NoSuchNetwork,
    NoSuchPool,
    NoSuchVolume,
    Unsupported,
    VirtError,
    WrongState,
)
from hosts.virt.fake import FakeHypervisor
from hosts.virt.protocol import Hypervisor
from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainEvent,
    DomainMetadata,
    DomainSpec,
    DomainState,
    HostEvent,
    KernelSpec,
    NicSpec,
    VolumeSpec,
)
from tests.lab.machines import wait_for

POOL = "contract"
POOL_PATH = "/var/lib/libvirt/contract"
MIB = 1024**2
PNG = b"\x89PNG\r\n\x1a\n"
WAIT_S = 20.0


@dataclass
class World:
    """A hypervisor and what was made on it, to be removed after the test."""

    hypervisor: Hypervisor
    volumes: list[str]
    domains: list[UUID]

    def volume(self, **changes: Any) -> VolumeSpec:
        spec = VolumeSpec(pool=POOL, name=f"v-{uuid4().hex[:8]}", capacity_bytes=8 * MIB)
        spec = replace(spec, **changes)
        self.volumes.append(spec.name)
        return spec

    def made_volume(self, **changes: Any) -> VolumeSpec:
        spec = self.volume(**changes)
        self.hypervisor.create_volume(spec)
        return spec

    def domain(self, **changes: Any) -> DomainSpec:
        """A machine with an empty disk and an ISO in its tray: it boots to "no bootable device"."""
        disk = self.made_volume()
        iso = self.made_volume(format="raw", capacity_bytes=MIB)
        uuid = uuid4()
        spec = DomainSpec(
            uuid=uuid,
            name=f"d-{uuid.hex[:8]}",
            vcpus=1,
            memory_mib=64,
            disks=(DiskSpec(pool=POOL, volume=disk.name),),
            cdroms=(CdromSpec(pool=POOL, volume=iso.name),),
            nics=(NicSpec(mac=f"52:54:00:{uuid.hex[:2]}:{uuid.hex[2:4]}:{uuid.hex[4:6]}"),),
            metadata=DomainMetadata(
                vm_uuid=uuid, name="n", owner="frodo", team="ring bearers", site="s1", image="i"
            ),
        )
        self.domains.append(uuid)
        return replace(spec, **changes)

    def defined(self, **changes: Any) -> DomainSpec:
        spec = self.domain(**changes)
        self.hypervisor.define(spec)
        return spec

    def started(self, **changes: Any) -> DomainSpec:
        spec = self.defined(**changes)
        self.hypervisor.start(spec.uuid)
        return spec


def _fake(_request: pytest.FixtureRequest) -> Hypervisor:
    return FakeHypervisor()


def _libvirt(request: pytest.FixtureRequest) -> Hypervisor:
    return LibvirtHypervisor(request.getfixturevalue("lab").host("a").uri)


@pytest.fixture(
    params=[
        pytest.param(_fake, id="fake"),
        pytest.param(_libvirt, id="libvirt", marks=pytest.mark.lab),
    ]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    hypervisor = request.param(request)
    hypervisor.ensure_pool(POOL, POOL_PATH)
    hypervisor.ensure_network()
    world = World(hypervisor, [], [])
    yield world
    for uuid in world.domains:
        try:
            hypervisor.force_off(uuid)
        except NoSuchDomain:
            continue
        hypervisor.undefine(uuid)
    for name in reversed(world.volumes):
        hypervisor.delete_volume(POOL, name)
    hypervisor.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, what=what, timeout_s=WAIT_S)


def no_progress(_done: int, _total: int) -> None:
    return None


# --- host -----------------------------------------------------------------------------------------


def test_the_host_says_what_it_is(world: World) -> None:
    facts = world.hypervisor.facts()
    assert facts.hostname
    assert facts.host_uuid is not None
    assert facts.cpus > 0
    assert facts.memory_mib > 0
    assert "qemu" in facts.domain_types
    assert "q35" in facts.machines
    sample = world.hypervisor.sample()
    assert 0 < sample.memory_free_mib <= sample.memory_total_mib
    world.hypervisor.ping()


def test_the_checks_have_known_keys(world: World) -> None:
    from hosts.virt.checks import KEYS

    checks = world.hypervisor.checks()
    assert checks
    assert {check.key for check in checks} <= set(KEYS)
    assert {check.result for check in checks} <= {"pass", "warn", "fail", "note"}


def test_nothing_of_a_running_machine_listens_on_the_network(world: World) -> None:
    spec = world.started()
    check = world.hypervisor.exposure()
    assert (check.key, spec.name in check.params.get("machines", "")) == ("consoles_closed", False)


# --- domains --------------------------------------------------------------------------------------


def test_define_read_undefine(world: World) -> None:
    spec = world.defined(autostart=True, title="A title")
    facts = world.hypervisor.domain(spec.uuid)
    assert (facts.name, facts.state) == (spec.name, DomainState.SHUTOFF)
    assert (facts.vcpus, facts.memory_mib) == (1, 64)
    assert facts.persistent
    assert facts.autostart
    assert facts.metadata == spec.metadata
    disk = next(disk for disk in facts.disks if disk.device == "disk")
    assert (disk.pool, disk.volume, disk.format) == (POOL, spec.disks[0].volume, "qcow2")
    assert facts.nics[0].mac == spec.nics[0].mac
    assert facts.nics[0].network == "default"
    assert str(spec.uuid) in world.hypervisor.domain_xml(spec.uuid, inactive=True)
    world.hypervisor.undefine(spec.uuid)
    world.hypervisor.undefine(spec.uuid)
    with pytest.raises(NoSuchDomain):
        world.hypervisor.domain(spec.uuid)


def test_define_again_brings_it_in_line(world: World) -> None:
    spec = world.defined()
    changed = replace(
        spec,
        vcpus=2,
        memory_mib=128,
        title="Bigger",
        cdroms=(CdromSpec(),),
        metadata=replace(spec.metadata, owner="sam") if spec.metadata else None,
    )
    world.hypervisor.define(changed)
    world.hypervisor.define(changed)
    facts = world.hypervisor.domain(spec.uuid)
    assert (facts.vcpus, facts.memory_mib) == (2, 128)
    assert facts.metadata is not None
    assert facts.metadata.owner == "sam"
    assert len(facts.disks) == 2
    assert [disk.source for disk in facts.disks if disk.device == "cdrom"] == [None]


def test_a_name_is_taken_once(world: World) -> None:
    spec = world.defined()
    with pytest.raises(AlreadyExists):
        world.hypervisor.define(world.domain(name=spec.name))


def test_define_wants_its_volumes(world: World) -> None:
    with pytest.raises(NoSuchVolume):
        world.hypervisor.define(world.domain(disks=(DiskSpec(pool=POOL, volume="absent"),)))
    with pytest.raises(NoSuchPool):
        world.hypervisor.define(world.domain(disks=(DiskSpec(pool="absent", volume="x"),)))


def test_power(world: World) -> None:
    hypervisor = world.hypervisor
    spec = world.started()

    def state() -> DomainState:
        return hypervisor.domain(spec.uuid).state

    assert state() is DomainState.RUNNING
    assert hypervisor.domain(spec.uuid).id is not None
    with pytest.raises(WrongState):
        hypervisor.start(spec.uuid)
    hypervisor.suspend(spec.uuid)
    assert state() is DomainState.PAUSED
    hypervisor.resume(spec.uuid)
    assert state() is DomainState.RUNNING
    hypervisor.reset(spec.uuid)
    hypervisor.reboot(spec.uuid)
    hypervisor.force_off(spec.uuid)
    hypervisor.force_off(spec.uuid)
    assert state() is DomainState.SHUTOFF
    assert hypervisor.domain(spec.uuid).reason == "destroyed"
    for verb in (
        hypervisor.shutdown,
        hypervisor.reset,
        hypervisor.reboot,
        hypervisor.suspend,
        hypervisor.resume,
        hypervisor.screenshot,
        hypervisor.open_graphics_fd,
    ):
        with pytest.raises(WrongState):
            verb(spec.uuid)


def test_start_paused(world: World) -> None:
    spec = world.defined()
    world.hypervisor.start(spec.uuid, paused=True)
    assert world.hypervisor.domain(spec.uuid).state is DomainState.PAUSED


def test_verbs_of_no_domain(world: World) -> None:
    nobody = uuid4()
    hypervisor = world.hypervisor
    for verb in (
        hypervisor.domain,
        hypervisor.domain_xml,
        hypervisor.start,
        hypervisor.shutdown,
        hypervisor.force_off,
        hypervisor.suspend,
        hypervisor.screenshot,
    ):
        with pytest.raises(NoSuchDomain):
            verb(nobody)


def test_a_running_domain_undefined_goes_when_it_stops(world: World) -> None:
    spec = world.started()
    world.hypervisor.undefine(spec.uuid)
    assert not world.hypervisor.domain(spec.uuid).persistent
    world.hypervisor.force_off(spec.uuid)
    with pytest.raises(NoSuchDomain):
        world.hypervisor.domain(spec.uuid)


def test_list_all_domains(world: World) -> None:
    off, on = world.defined(autostart=True), world.started()
    listed = {facts.uuid: facts for facts in world.hypervisor.list_domains()}
    assert listed[off.uuid].state is DomainState.SHUTOFF
    assert listed[off.uuid].autostart
    assert listed[off.uuid].cpu_time_ns is None
    assert listed[on.uuid].state is DomainState.RUNNING
    assert not listed[on.uuid].autostart
    assert listed[on.uuid].cpu_time_ns is not None
    assert (listed[on.uuid].vcpus, listed[on.uuid].memory_mib) == (1, 64)
    assert listed[on.uuid].persistent


def test_metadata_changes_while_it_runs(world: World) -> None:
    spec = world.started()
    assert spec.metadata is not None
    handed = replace(spec, title="New", metadata=replace(spec.metadata, owner="sam & co"))
    world.hypervisor.set_metadata(spec.uuid, handed)
    assert world.hypervisor.domain(spec.uuid).metadata == handed.metadata
    world.hypervisor.force_off(spec.uuid)
    assert world.hypervisor.domain(spec.uuid).metadata == handed.metadata
    world.hypervisor.set_autostart(spec.uuid, autostart=True)
    assert world.hypervisor.domain(spec.uuid).autostart


def test_eject_the_seed(world: World) -> None:
    spec = world.started()

    def tray() -> str | None:
        facts = world.hypervisor.domain(spec.uuid)
        return next(disk.source for disk in facts.disks if disk.device == "cdrom")

    assert tray() is not None
    world.hypervisor.eject_cdrom(spec.uuid, "sda")
    world.hypervisor.eject_cdrom(spec.uuid, "sda")
    assert tray() is None
    world.hypervisor.force_off(spec.uuid)
    assert tray() is None
    world.hypervisor.delete_volume(POOL, spec.cdroms[0].volume or "")
    world.hypervisor.start(spec.uuid)
    world.hypervisor.eject_cdrom(spec.uuid, "sdx")


def test_a_kernel_for_one_boot(world: World) -> None:
    kernel, initrd = (world.made_volume(format="raw", capacity_bytes=MIB) for _ in range(2))
    spec = world.domain()
    boots = KernelSpec(pool=POOL, kernel=kernel.name, initrd=initrd.name, cmdline="auto=true")
    world.hypervisor.define(replace(spec, kernel=boots))

    def stored() -> str:
        return world.hypervisor.domain_xml(spec.uuid, inactive=True)

    assert "<cmdline>auto=true</cmdline>" in stored()
    assert "<on_reboot>destroy</on_reboot>" in stored()
    world.hypervisor.forget_kernel(spec.uuid)
    world.hypervisor.forget_kernel(spec.uuid)
    assert initrd.name not in stored()
    assert "<on_reboot>restart</on_reboot>" in stored()
    for volume in (kernel, initrd):
        world.hypervisor.delete_volume(POOL, volume.name)
    world.hypervisor.start(spec.uuid)


def test_screen(world: World) -> None:
    spec = world.started()
    assert world.hypervisor.screenshot(spec.uuid).startswith(PNG)
    facts = world.hypervisor.domain(spec.uuid)
    assert facts.vnc_socket
    assert facts.vnc_socket.startswith("/")
    descriptor = world.hypervisor.open_graphics_fd(spec.uuid)
    with socket.socket(fileno=descriptor) as vnc:
        vnc.settimeout(5)
        assert vnc.recv(12) == b"RFB 003.008\n"


def test_screen_on_a_port(world: World) -> None:
    spec = world.defined()
    with pytest.raises(WrongState):
        world.hypervisor.display_port(spec.uuid)
    world.hypervisor.arrange_display(spec.uuid, by_port=True)
    world.hypervisor.arrange_display(spec.uuid, by_port=True)
    world.hypervisor.start(spec.uuid)
    facts = world.hypervisor.domain(spec.uuid)
    assert facts.vnc_socket is None
    screen = world.hypervisor.display_port(spec.uuid)
    assert (screen.address, screen.boot) == ("127.0.0.1", facts.id)
    assert len(screen.password) == 8
    assert world.hypervisor.display_port(spec.uuid) == screen  # two who look know the same
    assert screen.password not in world.hypervisor.domain_xml(spec.uuid)
    assert world.hypervisor.exposure().result == "pass"
    world.hypervisor.define(spec)  # what is brought in line stays so
    world.hypervisor.force_off(spec.uuid)
    world.hypervisor.start(spec.uuid)
    again = world.hypervisor.display_port(spec.uuid)
    assert again.password != screen.password
    assert again.boot != screen.boot
    world.hypervisor.arrange_display(spec.uuid, by_port=False)
    world.hypervisor.force_off(spec.uuid)
    world.hypervisor.start(spec.uuid)
    assert world.hypervisor.domain(spec.uuid).vnc_socket
    with pytest.raises(Unsupported):
        world.hypervisor.display_port(spec.uuid)


def test_no_address_yet(world: World) -> None:
    spec = world.started()
    assert world.hypervisor.addresses(spec.uuid) == {}
    mine = spec.nics[0].mac
    assert [lease for lease in world.hypervisor.leases() if lease.mac == mine] == []
    assert world.hypervisor.leases(["absent"]) == []


# --- volumes --------------------------------------------------------------------------------------


def test_create_read_resize_delete(world: World) -> None:
    spec = world.volume()
    made = world.hypervisor.create_volume(spec)
    assert (made.pool, made.name, made.format) == (POOL, spec.name, "qcow2")
    assert made.capacity_bytes == 8 * MIB
    with pytest.raises(AlreadyExists):
        world.hypervisor.create_volume(spec)
    world.hypervisor.resize_volume(POOL, spec.name, 16 * MIB)
    assert world.hypervisor.volume(POOL, spec.name).capacity_bytes == 16 * MIB
    with pytest.raises(VirtError):
        world.hypervisor.resize_volume(POOL, spec.name, 4 * MIB)
    assert spec.name in {facts.name for facts in world.hypervisor.list_volumes(POOL)}
    world.hypervisor.delete_volume(POOL, spec.name)
    world.hypervisor.delete_volume(POOL, spec.name)
    with pytest.raises(NoSuchVolume):
        world.hypervisor.volume(POOL, spec.name)


def test_upload_then_download(world: World) -> None:
    content = os.urandom(MIB) + bytes(3 * MIB) + os.urandom(1000)
    spec = world.made_volume(format="raw", capacity_bytes=len(content))
    told: list[tuple[int, int]] = []
    world.hypervisor.upload_volume(
        POOL, spec.name, io.BytesIO(content), len(content), lambda *told_: told.append(told_)
    )
    assert told[-1] == (len(content), len(content))
    target = io.BytesIO()
    world.hypervisor.download_volume(POOL, spec.name, target, no_progress)
    assert target.getvalue() == content


def test_a_source_that_ends_early(world: World) -> None:
    spec = world.made_volume(format="raw", capacity_bytes=MIB)
    with pytest.raises(VirtError):
        world.hypervisor.upload_volume(POOL, spec.name, io.BytesIO(b"short"), MIB, no_progress)


class Enough(Exception):  # noqa: N818 - what a caller says
    pass


def _stop(_done: int, _total: int) -> None:
    raise Enough


def test_progress_stops_an_upload(world: World) -> None:
    spec = world.made_volume(format="raw", capacity_bytes=4 * MIB)
    with pytest.raises(Enough):
        world.hypervisor.upload_volume(
            POOL, spec.name, io.BytesIO(os.urandom(4 * MIB)), 4 * MIB, _stop
        )


def test_an_uploaded_qcow2_is_known_as_one(world: World, qcow2_file: bytes) -> None:
    spec = world.made_volume(format="raw", capacity_bytes=len(qcow2_file))
    world.hypervisor.upload_volume(
        POOL, spec.name, io.BytesIO(qcow2_file), len(qcow2_file), no_progress
    )
    world.hypervisor.refresh_pool(POOL)

    def format_is_known() -> bool:
        return world.hypervisor.volume(POOL, spec.name).format == "qcow2"

    eventually(format_is_known, "libvirt has looked at the file")
    assert world.hypervisor.volume(POOL, spec.name).capacity_bytes == 64 * MIB


def test_linked_copy(world: World) -> None:
    base = world.made_volume()
    overlay = world.volume(
        capacity_bytes=32 * MIB, backing_volume=base.name, backing_format="qcow2"
    )
    made = world.hypervisor.create_volume(overlay)
    assert made.backing_path == world.hypervisor.volume(POOL, base.name).path
    assert made.capacity_bytes == 32 * MIB
    with pytest.raises(NoSuchVolume):
        world.hypervisor.create_volume(
            world.volume(backing_volume="absent", backing_format="qcow2")
        )


def test_full_copy(world: World) -> None:
    base = world.made_volume(capacity_bytes=4 * MIB)
    told: list[int] = []
    copy = world.hypervisor.clone_volume(
        POOL,
        base.name,
        world.volume(capacity_bytes=12 * MIB),
        lambda done, _total: told.append(done),
    )
    assert copy.backing_path is None
    assert copy.capacity_bytes == 12 * MIB
    assert told == sorted(told)
    assert told
    with pytest.raises(AlreadyExists):
        world.hypervisor.clone_volume(POOL, base.name, replace(base, pool=POOL), no_progress)
    assert world.hypervisor.volume(POOL, base.name).capacity_bytes == 4 * MIB


def test_a_stopped_copy_leaves_no_file(world: World) -> None:
    base = world.made_volume(format="raw", capacity_bytes=4 * MIB)
    target = world.volume()
    with pytest.raises(Enough):
        world.hypervisor.clone_volume(POOL, base.name, target, _stop)

    def gone() -> bool:
        return target.name not in {facts.name for facts in world.hypervisor.list_volumes(POOL)}

    eventually(gone, "the stopped copy's file is deleted")


def test_a_pool_that_is_not_there(world: World) -> None:
    for call in (
        lambda: world.hypervisor.list_volumes("absent"),
        lambda: world.hypervisor.refresh_pool("absent"),
        lambda: world.hypervisor.volume("absent", "x"),
        lambda: world.hypervisor.create_volume(world.volume(pool="absent")),
    ):
        with pytest.raises(NoSuchPool):
            call()


def test_a_full_pool_says_so(world: World) -> None:
    (pool,) = (pool for pool in world.hypervisor.list_pools() if pool.name == POOL)
    beyond = pool.capacity_bytes * 2
    with pytest.raises(NoSpace):
        world.hypervisor.create_volume(
            world.volume(format="raw", capacity_bytes=beyond, allocation_bytes=beyond)
        )


def test_pools_are_made_once(world: World) -> None:
    first = world.hypervisor.ensure_pool(POOL, POOL_PATH)
    again = world.hypervisor.ensure_pool(POOL, POOL_PATH)
    assert first.uuid == again.uuid
    assert (again.kind, again.path) == ("dir", POOL_PATH)
    assert again.active
    assert again.autostart
    assert again.available_bytes > 0


def test_the_end_of_a_file(world: World) -> None:
    spec = world.made_volume(format="raw", capacity_bytes=0)
    assert world.hypervisor.read_volume_end(POOL, spec.name, 10) == b""
    content = bytes(range(256)) * 4096  # 1 MiB: several of libvirt's messages
    world.hypervisor.upload_volume(POOL, spec.name, io.BytesIO(content), len(content), no_progress)
    assert world.hypervisor.read_volume_end(POOL, spec.name, 1000) == content[-1000:]
    assert world.hypervisor.read_volume_end(POOL, spec.name, 2 * len(content)) == content
    with pytest.raises(NoSuchVolume):
        world.hypervisor.read_volume_end(POOL, "absent", 10)


# --- serial line ----------------------------------------------------------------------------------


def test_the_serial_line_takes_one_reader(world: World) -> None:
    said, ends = bytearray(), []
    spec = world.defined()
    with pytest.raises(WrongState):
        world.hypervisor.open_console(spec.uuid, said.extend, lambda: ends.append(1))
    world.hypervisor.start(spec.uuid)
    line = world.hypervisor.open_console(spec.uuid, said.extend, lambda: ends.append(1))
    with pytest.raises(ConsoleInUse):
        world.hypervisor.open_console(spec.uuid, said.extend, lambda: ends.append(2))
    line.write(b"nobody reads this\r")
    line.close()
    line.close()
    again = world.hypervisor.open_console(spec.uuid, said.extend, lambda: ends.append(3))
    world.hypervisor.force_off(spec.uuid)
    eventually(lambda: ends == [3], "the end is told to the line that is open, once")
    again.close()
    assert ends == [3]


# --- networks -------------------------------------------------------------------------------------


def test_networks(world: World) -> None:
    (default,) = (n for n in world.hypervisor.list_networks() if n.name == "default")
    assert (default.kind, default.cidr) == ("nat", "192.168.122.0/24")
    assert default.active
    assert default.autostart
    with pytest.raises(NoSuchNetwork):
        world.hypervisor.ensure_network("absent")


# --- events ---------------------------------------------------------------------------------------


def test_events_follow_a_life(world: World) -> None:
    heard: list[HostEvent] = []
    source = world.hypervisor.events()
    source.subscribe(heard.append)
    try:
        spec = world.started()
        world.hypervisor.suspend(spec.uuid)
        world.hypervisor.resume(spec.uuid)
        world.hypervisor.force_off(spec.uuid)
        world.hypervisor.undefine(spec.uuid)

        def details() -> list[str]:
            return [
                event.detail
                for event in heard
                if isinstance(event, DomainEvent)
                and event.uuid == spec.uuid
                and event.kind == "lifecycle"
            ]

        eventually(lambda: "undefined" in details(), "the last event")
        assert details()[0] == "defined"
        assert details().index("started") < details().index("suspended")
        assert details()[-2:] == ["stopped", "undefined"]
    finally:
        source.close()
    source.close()
