"""What a guest's agent says: taken as a claim, cut, cleaned, and never a reason to stumble."""

from __future__ import annotations

import json

import pytest

from hosts.virt import guestagent
from hosts.virt.errors import AgentRefused, AgentSilent, WrongState
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import GuestFacts
from tests.virt.test_contract import POOL, POOL_PATH, World, no_progress, world  # noqa: F401

HONEST = {
    "hostname": "web-1",
    "os.id": "debian",
    "os.pretty-name": "Debian GNU/Linux 12 (bookworm)",
    "os.kernel-release": "6.1.0-25-cloud-amd64",
    "timezone.name": "UTC",
    "timezone.offset": 0,
    "fs.count": 1,
    "fs.0.mountpoint": "/",
    "fs.0.name": "vda1",
    "fs.0.fstype": "ext4",
    "fs.0.total-bytes": 2_000,
    "fs.0.used-bytes": 500,
    "user.count": 1,
    "user.0.name": "debian",
    "user.0.login-time": 1_700_000_000_123,
    "if.count": 2,
    "if.0.name": "lo",
    "if.0.hwaddr": "00:00:00:00:00:00",
    "if.0.addr.count": 1,
    "if.0.addr.0.addr": "127.0.0.1",
    "if.1.name": "enp1s0",
    "if.1.hwaddr": "52:54:00:AA:BB:CC",
    "if.1.addr.count": 2,
    "if.1.addr.0.addr": "192.168.122.7",
    "if.1.addr.1.addr": "fe80::1",
}


def test_an_honest_guest() -> None:
    facts = guestagent.facts(HONEST)
    assert (facts.hostname, facts.os_id, facts.timezone) == ("web-1", "debian", "UTC")
    assert facts.os == "Debian GNU/Linux 12 (bookworm)"
    (root,) = facts.filesystems
    assert (root.mountpoint, root.device, root.kind) == ("/", "vda1", "ext4")
    assert (root.total_bytes, root.used_bytes) == (2000, 500)
    assert [(user.name, user.since) for user in facts.users] == [("debian", 1_700_000_000)]
    (card,) = facts.cards  # loopback says nothing
    assert (card.mac, card.addresses) == ("52:54:00:aa:bb:cc", ("192.168.122.7",))


def test_one_that_says_nothing() -> None:
    assert guestagent.facts({}) == GuestFacts()


def test_one_that_lies() -> None:
    """Endless lists, endless texts, control characters, things that are no numbers."""
    said: dict[str, object] = {
        "hostname": "a\x00b\x1b[2Jc\u202ed\n" + "x" * 10**6,
        "os.pretty-name": {"a": 1},
        "fs.count": 2**62,
        "user.count": -7,
        "if.count": "many",
        "timezone.name": None,
    }
    for n in range(500):
        said |= {
            f"fs.{n}.mountpoint": "/" + "m" * 10**4,
            f"fs.{n}.total-bytes": 2**80 if n else 10,
            f"fs.{n}.used-bytes": True if n else 2**60,
        }
    facts = guestagent.facts(said)
    assert facts.hostname.startswith("ab[2Jcdxxx")
    assert len(facts.hostname) <= guestagent.TEXT_MAX
    assert facts.os == ""
    assert len(facts.filesystems) == guestagent.LIST_MAX
    assert (facts.filesystems[0].total_bytes, facts.filesystems[0].used_bytes) == (10, 10)
    assert (facts.filesystems[1].total_bytes, facts.filesystems[1].used_bytes) == (None, None)
    assert facts.users == ()
    assert facts.cards == ()
    assert len(json.dumps(facts, default=lambda one: one.__dict__)) < 64 * 1024


def test_a_card_that_is_none() -> None:
    said = {
        "if.count": 1,
        "if.0.hwaddr": "<script>",
        "if.0.addr.count": 99999,
        "if.0.addr.0.addr": "10.0.0.1",
    }
    assert guestagent.facts(said).cards == ()
    said |= {"if.0.hwaddr": "52:54:00:00:00:01", "if.0.addr.1.addr": "'; DROP TABLE"}
    (card,) = guestagent.facts(said).cards
    assert card.addresses == ("10.0.0.1",)


def test_a_guest_without_an_agent_is_silent(world: World) -> None:  # noqa: F811
    """Each question comes back in seconds, with the error that says so."""
    hypervisor = world.hypervisor
    spec = world.started()
    for ask in (
        lambda: hypervisor.guest_facts(spec.uuid),
        lambda: hypervisor.set_guest_password(spec.uuid, "root", "$6$x$y"),
        lambda: hypervisor.trim_guest(spec.uuid, no_progress),
        lambda: hypervisor.freeze_guest(spec.uuid),
        lambda: hypervisor.shutdown(spec.uuid, by="agent"),
    ):
        with pytest.raises(AgentSilent):
            ask()
    hypervisor.shutdown(spec.uuid, by="acpi")
    hypervisor.force_off(spec.uuid)
    with pytest.raises(WrongState):
        hypervisor.guest_facts(spec.uuid)


def test_the_fakes_agent() -> None:
    fake = FakeHypervisor()
    fake.ensure_pool(POOL, POOL_PATH)
    spec = World(fake, [], []).started()
    fake.guest_agent(spec.uuid, connected=True)
    assert fake.guest_facts(spec.uuid).hostname == "guest"
    fake.agent_says[spec.uuid] = HONEST
    assert fake.guest_facts(spec.uuid).hostname == "web-1"
    assert fake.freeze_guest(spec.uuid) == 1
    with pytest.raises(AgentRefused):
        fake.freeze_guest(spec.uuid)
    with pytest.raises(AgentRefused):
        fake.guest_facts(spec.uuid)
    assert (fake.thaw_guest(spec.uuid), fake.thaw_guest(spec.uuid)) == (1, 0)
