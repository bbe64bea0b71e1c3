"""The event feed on a real libvirt, and what guests write to their channels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from hosts.virt.channels import BUDGET_BYTES, ChannelWatch
from hosts.virt.client import LibvirtHypervisor
from hosts.virt.connection import Connection
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import (
    CdromSpec,
    ChannelData,
    ConnectionClosed,
    DiskSpec,
    DomainEvent,
    DomainMetadata,
    DomainSpec,
    HostEvent,
    NicSpec,
    VolumeSpec,
)
from hosts.virt.xml.devices import FIRSTBOOT_CHANNEL
from tests.lab.conftest import RunningLab
from tests.lab.machines import wait_for
from vms import seeds

MIB = 1024**2
POOL = "default"


@pytest.fixture
def hypervisor(lab: RunningLab) -> Iterator[LibvirtHypervisor]:
    made = LibvirtHypervisor(lab.host("a").uri)
    made.ensure_pool(POOL, "/var/lib/libvirt/images")
    made.ensure_network()
    yield made
    made.close()


def _volume(hypervisor: LibvirtHypervisor, name: str, content: bytes) -> None:
    hypervisor.create_volume(
        VolumeSpec(pool=POOL, name=name, capacity_bytes=len(content), format="raw")
    )
    hypervisor.upload_volume(POOL, name, io.BytesIO(content), len(content), lambda *_: None)


@pytest.fixture
def tiny(hypervisor: LibvirtHypervisor, tiny_image: Path) -> Iterator[DomainSpec]:
    """A tiny guest with a seed, defined and not started."""
    uuid = uuid4()
    name = f"hear-{uuid.hex[:8]}"
    mac = f"52:54:00:{uuid.hex[:2]}:{uuid.hex[2:4]}:{uuid.hex[4:6]}"
    seed = seeds.build(seeds.Seed(instance_id=str(uuid), hostname="hear", macs=(mac,)))
    _volume(hypervisor, f"{name}-base", tiny_image.read_bytes())
    _volume(hypervisor, f"{name}-seed", seed)
    hypervisor.create_volume(
        VolumeSpec(
            pool=POOL,
            name=name,
            capacity_bytes=1024 * MIB,
            backing_volume=f"{name}-base",
            backing_format="qcow2",
        )
    )
    spec = DomainSpec(
        uuid=uuid,
        name=name,
        vcpus=1,
        memory_mib=192,
        disks=(DiskSpec(pool=POOL, volume=name),),
        cdroms=(CdromSpec(pool=POOL, volume=f"{name}-seed"),),
        nics=(NicSpec(mac=mac),),
        metadata=DomainMetadata(vm_uuid=uuid, name="n", owner="o", team="t", site="s"),
    )
    hypervisor.define(spec)
    yield spec
    hypervisor.force_off(uuid)
    hypervisor.undefine(uuid)
    for volume in (name, f"{name}-base", f"{name}-seed"):
        hypervisor.delete_volume(POOL, volume)


@pytest.mark.lab
def test_a_first_boot_is_heard(hypervisor: LibvirtHypervisor, tiny: DomainSpec) -> None:
    """Watched before the machine is on; and again from anew, since the guest says it again."""
    heard: list[HostEvent] = []
    source = hypervisor.events()
    source.subscribe(heard.append)
    source.watch_channel(tiny.uuid, FIRSTBOOT_CHANNEL)

    def reported() -> bool:
        data = b"".join(event.data for event in heard if isinstance(event, ChannelData))
        return b'"status": "done"' in data or b'"status":"done"' in data

    try:
        hypervisor.start(tiny.uuid)
        wait_for(reported, what="the first-boot report", timeout_s=240)
        source.unwatch_channel(tiny.uuid, FIRSTBOOT_CHANNEL)
        heard.clear()
        source.watch_channel(tiny.uuid, FIRSTBOOT_CHANNEL)
        wait_for(reported, what="the report told again", timeout_s=60)
    finally:
        source.close()


@pytest.mark.lab
def test_small_changes_are_heard(hypervisor: LibvirtHypervisor, tiny: DomainSpec) -> None:
    heard: list[HostEvent] = []
    source = hypervisor.events()
    source.subscribe(heard.append)

    def kinds() -> set[str]:
        return {event.kind for event in heard if isinstance(event, DomainEvent)}

    try:
        hypervisor.start(tiny.uuid)
        hypervisor.set_metadata(tiny.uuid, tiny)
        hypervisor.eject_cdrom(tiny.uuid, "sda")
        hypervisor.reset(tiny.uuid)
        wanted = {"lifecycle", "metadata", "tray", "reboot"}
        wait_for(lambda: wanted <= kinds(), what=f"{wanted}", timeout_s=20)
    finally:
        source.close()


@pytest.mark.lab
def test_two_feeds_of_one_host(hypervisor: LibvirtHypervisor, tiny: DomainSpec) -> None:
    first: list[HostEvent] = []
    second: list[HostEvent] = []
    sources = [hypervisor.events(), hypervisor.events()]
    sources[0].subscribe(first.append)
    sources[1].subscribe(second.append)
    sources[1].subscribe(second.append)  # a second subscriber, not a second registration
    try:
        hypervisor.start(tiny.uuid)

        def both() -> bool:
            return any(isinstance(e, DomainEvent) for e in first) and len(second) >= 2

        wait_for(both, what="events at both", timeout_s=20)
    finally:
        for source in sources:
            source.close()


@pytest.mark.lab
def test_the_end_of_the_connection_is_heard(lab: RunningLab) -> None:
    hypervisor = LibvirtHypervisor(lab.host("b").uri)
    heard: list[HostEvent] = []
    source = hypervisor.events()
    source.subscribe(heard.append)
    hypervisor.ping()
    lab.run("stop-libvirtd", "b")
    try:
        wait_for(
            lambda: any(isinstance(event, ConnectionClosed) for event in heard),
            what="ConnectionClosed",
            timeout_s=30,
        )
    finally:
        lab.run("start-libvirtd", "b")
        source.close()
    hypervisor.ping()  # opens a new connection by itself
    hypervisor.close()


class _EndlessStream:
    """A guest that writes as fast as it is read."""

    def __init__(self) -> None:
        self.muted = False

    def recv(self, size: int) -> bytes:
        return b"x" * size

    def eventUpdateCallback(self, events: int) -> None:  # libvirt's name
        self.muted = events == 0

    def eventRemoveCallback(self) -> None:
        self.muted = True

    def abort(self) -> None:
        self.muted = True


def test_a_flooding_guest_is_not_listened_to() -> None:
    import libvirt

    heard: list[Any] = []
    watch = ChannelWatch(Connection("test:///default"), heard.append)
    key = (UUID(int=1), FIRSTBOOT_CHANNEL)
    watch.watch(*key)
    stream = _EndlessStream()
    channel = watch._channels[key]
    channel.stream = stream
    for _turn in range(100):
        watch._readable(stream, libvirt.VIR_STREAM_EVENT_READABLE, (key, channel))
    assert sum(len(event.data) for event in heard) == BUDGET_BYTES
    assert stream.muted
    watch.close()


def test_the_fake_tells_a_first_boot() -> None:
    fake = FakeHypervisor()
    heard: list[HostEvent] = []
    source = fake.events()
    source.subscribe(heard.append)
    fake.create_volume(VolumeSpec(pool=POOL, name="d", capacity_bytes=MIB))
    spec = DomainSpec(
        uuid=uuid4(),
        name="d",
        vcpus=1,
        memory_mib=64,
        disks=(DiskSpec(pool=POOL, volume="d"),),
        nics=(NicSpec(mac="52:54:00:00:00:01"),),
    )
    fake.define(spec)
    fake.start(spec.uuid)
    fake.guest_boots(spec.uuid, hostname="frodo")
    assert fake.addresses(spec.uuid) == {"52:54:00:00:00:01": ["192.168.122.2"]}
    assert fake.leases()[0].hostname == "frodo"
    source.watch_channel(spec.uuid, FIRSTBOOT_CHANNEL)
    (report,) = [event for event in heard if isinstance(event, ChannelData)]
    assert b'"status": "done"' in report.data
    fake.guest_crashes(spec.uuid)
    assert fake.domain(spec.uuid).reason == "crashed"
