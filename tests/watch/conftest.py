"""A watcher on fake hosts, in threads of the test's process and with short waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings

from accounts.models import Team, User
from hosts import connections
from hosts.models import Host, Pool
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DiskSpec, DomainMetadata, DomainSpec, NicSpec, VolumeSpec
from hosts.watch.dispatcher import HostWatch, Timing
from vms.models import VM

QUICK = Timing(
    sync=0.4,
    sample=0.2,
    inventory=0.4,
    leases_waiting=0.05,
    leases_idle=0.2,
    channels=0.05,
    exposure=0.2,
    stop_settles=0.3,
    move_settles=0.4,
    absent_again=0.1,
    retry=0.05,
    backoff_first=0.05,
    backoff_last=0.2,
    sample_share=1.0,
)
# Nothing but events and the first list.
EVENTS_ONLY = Timing(
    sync=600,
    sample=600,
    inventory=600,
    leases_waiting=600,
    leases_idle=600,
    channels=600,
    exposure=600,
    exposure_after_start=0.05,
    stop_settles=0.3,
    absent_again=0.1,
    retry=0.05,
    backoff_first=0.05,
    backoff_last=0.2,
)


def eventually(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"waited {within_s} s in vain for: {what}"
        time.sleep(0.02)


def sees(vm: VM, observed: str) -> None:
    def there() -> bool:
        vm.refresh_from_db()
        return vm.observed == observed

    eventually(there, f"{vm.name} to be {observed}")


def domain_of(vm: VM, *, site: str | None = None) -> DomainSpec:
    disk = vm.disks.all()[0]
    return DomainSpec(
        uuid=vm.uuid,
        name=vm.domain_name,
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        disks=(DiskSpec(pool="default", volume=disk.volume),),
        nics=tuple(NicSpec(mac=nic.mac, network=nic.network) for nic in vm.nics.all()),
        metadata=DomainMetadata(
            vm_uuid=vm.uuid,
            name=vm.name,
            owner=vm.owner.username,
            team=vm.team.name,
            site=settings.SITE_MARK if site is None else site,
        ),
    )


@pytest.fixture
def fake(transactional_db: None, host: Host, pool: Pool) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("alpha")
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


def define(fake: FakeHypervisor, vm: VM, *, start: bool = True, site: str | None = None) -> None:
    spec = domain_of(vm, site=site)
    fake.create_volume(
        VolumeSpec(pool="default", name=spec.disks[0].volume, capacity_bytes=10 * 1024**3)
    )
    fake.define(spec)
    if start:
        fake.start(vm.uuid)


@pytest.fixture
def machine(fake: FakeHypervisor, make_vm: Callable[..., VM], owner: User, team: Team) -> VM:
    """It runs, and its row has seen nothing yet."""
    vm = make_vm(owner, team, "web-1", observed=VM.Observed.UNKNOWN)
    define(fake, vm)
    return vm


@contextmanager
def watched(host: Host, timing: Timing = EVENTS_ONLY) -> Iterator[HostWatch]:
    watch = HostWatch(host, opener=connections.open_watched, timing=timing)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
        watch.join(5)
        assert not watch.is_alive
