"""A host that does not answer: since when, its machines as they were last seen, others as ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounts.models import Team, User
from hosts import connections
from hosts.models import Host
from hosts.virt.fake import FakeHypervisor
from hosts.watch.supervisor import Supervisor
from tests.watch.conftest import QUICK, define, eventually, sees, watched
from vms.models import VM


def is_(host: Host, reach: str) -> Callable[[], bool]:
    def there() -> bool:
        host.refresh_from_db()
        return host.reach == reach

    return there


def test_it_is_down_since_and_its_machines_keep_their_state(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host, QUICK):
        sees(machine, "running")
        up_since = Host.objects.get(pk=host.pk).reach_since
        fake.unplug()
        eventually(is_(host, "down"), "the host to be down")
        assert host.error_code == "virt.host_unreachable"
        assert host.reach_since is not None
        assert up_since is None or host.reach_since > up_since
        down_since = host.reach_since
        calls = fake.calls["list_domains"] + fake.calls["domain"]
        eventually(
            lambda: fake.calls["list_domains"] + fake.calls["domain"] >= calls, "tries to go on"
        )
        machine.refresh_from_db()
        assert machine.observed == "running"
        assert machine.missing_count == 0
        host.refresh_from_db()
        assert host.reach_since == down_since  # the first moment, not the last try
        fake.plug()
        eventually(is_(host, "up"), "the host to be back")
        assert host.error_code == ""


def test_what_happened_meanwhile_is_seen_when_it_is_back(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host, QUICK):
        sees(machine, "running")
        fake.unplug()
        eventually(is_(host, "down"), "the host to be down")
        fake.plug()
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")


@pytest.fixture
def beta(fake: FakeHypervisor) -> Host:
    return Host.objects.create(name="beta", transport=Host.Transport.LOCAL)


def test_other_hosts_go_on(
    machine: VM,
    host: Host,
    fake: FakeHypervisor,
    beta: Host,
    make_vm: Callable[..., VM],
    owner: User,
    team: Team,
) -> None:
    other_fake = FakeHypervisor("beta")
    vm = make_vm(owner, team, "web-2", host=beta, observed=VM.Observed.UNKNOWN)
    define(other_fake, vm)
    with (
        connections.use_fake({"alpha": fake, "beta": other_fake}),
        watched(host, QUICK),
        watched(beta, QUICK),
    ):
        sees(machine, "running")
        sees(vm, "running")
        fake.unplug()
        eventually(is_(host, "down"), "the host to be down")
        other_fake.suspend(vm.uuid)
        sees(vm, "paused")
        assert Host.objects.get(pk=beta.pk).reach == "up"


def test_hosts_that_come_and_go_are_picked_up(
    host: Host, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_fake = FakeHypervisor("beta")
    with connections.use_fake({"alpha": fake, "beta": other_fake}):
        supervisor = Supervisor(opener=connections.open_watched, timing=QUICK)
        try:
            supervisor.look_round()
            eventually(is_(host, "up"), "the first host to be up")
            beta = Host.objects.create(name="beta", transport=Host.Transport.LOCAL)
            supervisor.look_round()
            eventually(is_(beta, "up"), "the host that was added")
            beta.delete()
            supervisor.look_round()
            eventually(lambda: not other_fake._sources, "nobody to listen to the removed host")
        finally:
            supervisor._end_all()
    assert not fake._sources


def test_a_shard_watches_its_hosts_only(host: Host, fake: FakeHypervisor, beta: Host) -> None:
    with connections.use_fake({"alpha": fake, "beta": FakeHypervisor("beta")}):
        supervisor = Supervisor(names=["alpha"], opener=connections.open_watched, timing=QUICK)
        try:
            supervisor.look_round()
            eventually(is_(host, "up"), "its host to be up")
        finally:
            supervisor._end_all()
    beta.refresh_from_db()
    assert beta.reach == "unknown"
