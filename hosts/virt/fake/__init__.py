"""A hypervisor in memory, for tests and for looking at pages without libvirt.

It fulfils the ``Hypervisor`` protocol and passes the same contract tests as libvirt's. Beyond the
protocol it has what a test needs: faults on demand (``fail_next``, ``unplug``), delays, a count of
calls, and a guest that boots, leases an address and reports when told to (``fake.guest``).

    fake = FakeHypervisor()
    fake.fail_next("create_volume", NoSpace())
    fake.boots_by_itself = True
    with hosts.connections.use_fake({"a": fake}): ...
    assert fake.calls["define"] == 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hosts.virt.fake.events import FakeEventSource
from hosts.virt.fake.host import FakeHost
from hosts.virt.fake.moves import FakeMoves

if TYPE_CHECKING:
    from hosts.virt.protocol import EventSource, Hypervisor

__all__ = ["FakeEventSource", "FakeHypervisor"]


class FakeHypervisor(FakeMoves, FakeHost):
    """See the module. Thread-safe."""

    def events(self) -> FakeEventSource:
        return FakeEventSource(self)


def _conforms(fake: FakeHypervisor) -> tuple[Hypervisor, EventSource]:
    """For the type checker: the fake fulfils the protocols."""
    return fake, fake.events()
