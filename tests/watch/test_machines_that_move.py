"""A machine that is migrated: its row follows, and the page does not say that it stopped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hosts import connections
from hosts.models import Host
from hosts.virt.fake import FakeHypervisor
from tests.watch.conftest import QUICK, define, domain_of, eventually, sees, watched
from vms import state, watching
from vms.models import VM


@pytest.fixture
def there(
    fake: FakeHypervisor, host: Host, machine: VM, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHypervisor]:
    """The host "beta", which has been made ready for the machine. Both are watched."""
    monkeypatch.setattr(watching, "MOVE_SETTLES_S", 0.3)
    beta = Host.objects.create(name="beta", transport=Host.Transport.LOCAL)
    hypervisor = FakeHypervisor("beta")
    with (
        connections.use_fake({"alpha": fake, "beta": hypervisor}),
        watched(host, QUICK),
        watched(beta, QUICK),
    ):
        eventually(beta.pools.exists, "the other host's pools to be known")
        define(hypervisor, machine, start=False)
        sees(machine, "running")
        yield hypervisor


def lives_at(machine: VM, name: str) -> bool:
    machine.refresh_from_db()
    return machine.host is not None and machine.host.name == name


@pytest.mark.parametrize("undefined", [False, True])
def test_a_migrated_machine_is_followed_and_never_stopped(
    machine: VM, fake: FakeHypervisor, there: FakeHypervisor, *, undefined: bool
) -> None:
    there.arrive(machine.uuid)
    fake.leave(machine.uuid, undefined=undefined)
    eventually(lambda: lives_at(machine, "beta"), "it to be followed")
    before = fake.calls["list_domains"], there.calls["list_domains"]
    eventually(
        lambda: (
            fake.calls["list_domains"] > before[0] + 3
            and there.calls["list_domains"] > before[1] + 3
        ),
        "several lists",
    )
    assert lives_at(machine, "beta")
    assert machine.observed == "running"
    assert machine.desired == "running"
    assert machine.disks.all()[0].pool.host.name == "beta"  # type: ignore[union-attr]
    kinds = list(machine.events.values_list("kind", flat=True))
    assert "moved" in kinds
    assert not {"state.shutoff", "state.missing"} & set(kinds)
    # And back, where the domain may still be defined.
    if undefined:
        fake.define(domain_of(machine))
    fake.arrive(machine.uuid)
    there.leave(machine.uuid)
    eventually(lambda: lives_at(machine, "alpha"), "it to be followed back")


def test_the_host_that_it_left_may_be_heard_first(
    machine: VM, fake: FakeHypervisor, there: FakeHypervisor
) -> None:
    """It may have left long before the other host is reached: then it is off meanwhile."""
    fake.leave(machine.uuid)
    sees(machine, "shutoff")
    assert machine.observed_reason == "migrated"
    there.arrive(machine.uuid)
    there.suspend(machine.uuid)
    eventually(lambda: lives_at(machine, "beta"), "it to be followed")
    sees(machine, "paused")


def test_a_hosts_word_alone_takes_no_machine(
    machine: VM, fake: FakeHypervisor, there: FakeHypervisor
) -> None:
    there.arrive(machine.uuid)
    lists = there.calls["list_domains"]
    eventually(lambda: there.calls["list_domains"] > lists + 3, "several lists")
    assert lives_at(machine, "alpha")
    fake.force_off(machine.uuid)
    sees(machine, "shutoff")
    lists = there.calls["list_domains"]
    eventually(lambda: there.calls["list_domains"] > lists + 3, "several lists")
    assert lives_at(machine, "alpha")


def test_who_starts_the_old_copy_takes_nothing(
    machine: VM, fake: FakeHypervisor, there: FakeHypervisor
) -> None:
    there.arrive(machine.uuid)
    fake.leave(machine.uuid)
    eventually(lambda: lives_at(machine, "beta"), "it to be followed")
    fake.start(machine.uuid)
    lists = fake.calls["list_domains"]
    eventually(lambda: fake.calls["list_domains"] > lists + 3, "several lists")
    assert lives_at(machine, "beta")
    assert machine.observed in state.ON
