"""The watcher on the lab's real libvirt hosts: changed by virsh, killed, cut off."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from accounts.models import Team, User
from hosts import connections, services
from hosts.models import Host
from hosts.watch.dispatcher import HostWatch, Timing
from tests.lab.conftest import RunningLab, lab  # noqa: F401 - a fixture
from tests.watch.conftest import eventually, sees
from vms.models import VM

pytestmark = pytest.mark.lab
PROMPT_S = 1.0  # "a change made outside with virsh shows within a second"
TIMING = Timing(backoff_first=0.2, backoff_last=1.0)


class OnHost:
    def __init__(self, lab: RunningLab, vm: VM, xml: Path) -> None:  # noqa: F811
        self.lab, self.vm, self.xml = lab, vm, xml
        self.host = vm.host
        assert vm.host is not None
        self.name = vm.host.name

    def virsh(self, *argv: str) -> None:
        self.lab.virsh(self.name, *argv)

    def becomes(self, observed: str, *argv: str) -> float:
        """Seconds from the end of the command until the row says so."""
        self.virsh(*argv)
        began = time.monotonic()
        sees(self.vm, observed)
        return time.monotonic() - began


@pytest.fixture
def on(
    lab: RunningLab,  # noqa: F811
    transactional_db: None,
    make_user: Callable[..., User],
    tmp_path: Path,
) -> Iterator[Callable[[str], OnHost]]:
    owner = make_user("owner")
    team: Team = owner.personal_team
    watches: list[HostWatch] = []
    machines: list[OnHost] = []

    def make(name: str) -> OnHost:
        host = Host.objects.create(
            name=name, transport="unix", socket_path=lab.host(name).socket_path
        )
        title = f"watched-{uuid.uuid4().hex[:6]}"
        vm = VM.objects.create(
            name=title,
            domain_name=title,
            owner=owner,
            team=team,
            host=host,
            vcpus=1,
            memory_mib=64,
            hostname=title,
            first_boot="none",
        )
        xml = tmp_path / f"{title}.xml"
        xml.write_text(
            f"<domain type='qemu'><name>{title}</name><uuid>{vm.uuid}</uuid>"
            "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>"
            "<devices><controller type='usb' model='none'/></devices></domain>"
        )
        machine = OnHost(lab, vm, xml)
        machine.virsh("define", str(xml))
        watch = HostWatch(host, opener=connections.open_watched, timing=TIMING)
        watch.start()
        watches.append(watch)
        machines.append(machine)
        sees(vm, "shutoff")
        return machine

    yield make
    for watch in watches:
        watch.stop()
    for watch in watches:
        watch.join(10)
    for machine in machines:
        lab.run("virsh", machine.name, "destroy", machine.vm.domain_name, check=False)
        lab.run("virsh", machine.name, "undefine", machine.vm.domain_name, check=False)


def test_what_virsh_does_shows_within_a_second(on: Callable[[str], OnHost]) -> None:
    one = on("a")
    domain = one.vm.domain_name
    # A watch that has just begun still reads the host; a busy machine has its moments: the middle
    # of three rounds counts.
    rounds = [
        [
            one.becomes("running", "start", domain),
            one.becomes("paused", "suspend", domain),
            one.becomes("running", "resume", domain),
            one.becomes("shutoff", "destroy", domain),
        ]
        for _ in range(3)
    ]
    assert max(median(took) for took in zip(*rounds, strict=True)) < PROMPT_S, rounds
    one.virsh("undefine", domain)
    sees(one.vm, "missing")
    one.virsh("define", str(one.xml))
    sees(one.vm, "shutoff")


def test_a_killed_libvirtd_hides_one_host_and_loses_nothing(on: Callable[[str], OnHost]) -> None:
    one, other = on("a"), on("b")
    one.becomes("running", "start", one.vm.domain_name)
    other.becomes("running", "start", other.vm.domain_name)

    def reach(host: Host, wanted: str) -> None:
        eventually(
            lambda: Host.objects.get(pk=host.pk).reach == wanted, f"{host} {wanted}", within_s=30
        )

    assert one.host is not None
    assert other.host is not None
    one.lab.run("stop-libvirtd", "a", "--kill")
    reach(one.host, "down")
    assert other.becomes("paused", "suspend", other.vm.domain_name) < PROMPT_S
    one.vm.refresh_from_db()
    assert one.vm.observed == "running"
    one.lab.run("start-libvirtd", "a")
    reach(one.host, "up")
    one.becomes("paused", "suspend", one.vm.domain_name)
    one.lab.run("cut", "b", "--how", "refuse")
    reach(other.host, "down")
    one.becomes("running", "resume", one.vm.domain_name)
    one.lab.run("mend", "b")
    reach(other.host, "up")
    other.becomes("running", "resume", other.vm.domain_name)


def test_a_real_host_is_read_and_says_what_it_can(on: Callable[[str], OnHost]) -> None:
    one = on("a")
    assert one.host is not None
    host = services.refresh_host(one.host.pk)
    host = services.probe_host(host.pk)
    assert host.cpus > 0
    assert host.pools.filter(is_default=True, active=True).exists()
    assert host.networks.filter(name="default", active=True).exists()
    assert host.acceleration in ("kvm", "tcg")
    assert {check["key"] for check in host.checks} >= {"cpu_virtualization", "kvm_listed"}
