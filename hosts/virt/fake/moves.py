"""The fake's domains that go to another fake."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from uuid import UUID

from hosts.virt.errors import AlreadyExists
from hosts.virt.fake.guest import FakeGuest
from hosts.virt.fake.state import FakeDomain, counted
from hosts.virt.protocol import Hypervisor, Progress
from hosts.virt.spec import DomainSpec, DomainState

MOVE_REPORTS = 4


class FakeMoves(FakeGuest):
    @counted
    def move_running(
        self,
        uuid: UUID,
        there: Hypervisor,
        pools: Mapping[str, str],
        progress: Progress,
        *,
        address: str = "",  # noqa: ARG002 - the protocol's
    ) -> None:
        domain, other = self._running(uuid), _fake(there)
        other._receive(domain.spec, pools)
        disks = [
            (
                self._volume(disk.pool, disk.volume),
                other._volume(pools[disk.pool], disk.volume),
            )
            for disk in domain.spec.disks
        ]
        total = sum(mine.facts.allocation_bytes for mine, _theirs in disks)
        arriving = other._domains[uuid]
        arriving.persistent = False
        arriving.state, arriving.reason = DomainState.RUNNING, "migrating"
        try:
            for step in range(1, MOVE_REPORTS + 1):
                progress(total * step // MOVE_REPORTS, total)
                self.wait("move_running")
            for mine, theirs in disks:
                pool = theirs.facts.pool
                other._reserve(pool, mine.facts.allocation_bytes - theirs.facts.allocation_bytes)
                theirs.content = mine.content
                theirs.facts = dataclasses.replace(
                    theirs.facts, allocation_bytes=mine.facts.allocation_bytes
                )
        except BaseException:
            with other._lock:
                other._domains.pop(uuid, None)
            raise
        arriving.persistent, arriving.boots = True, domain.boots
        other.arrive(uuid)
        (other.agents.add if uuid in self.agents else other.agents.discard)(uuid)
        self.leave(uuid, undefined=True)

    @counted
    def stop_moving(self, uuid: UUID) -> None:
        self._domain(uuid)

    @counted
    def send_definition(self, uuid: UUID, there: Hypervisor, pools: Mapping[str, str]) -> None:
        domain = self._domain(uuid)
        _fake(there)._receive(domain.next_spec or domain.spec, pools)

    def _receive(self, spec: DomainSpec, pools: Mapping[str, str]) -> None:
        with self._lock:
            spec = _in_pools(spec, pools)
            self._paths(spec)  # NoSuchPool, NoSuchVolume
            for other in self._domains.values():
                if other.spec.name == spec.name and other.spec.uuid != spec.uuid:
                    raise AlreadyExists(spec.name)
            domain = self._domains.setdefault(spec.uuid, FakeDomain(spec))
            domain.spec, domain.persistent = spec, True
        self._lifecycle(domain, "defined")


def _fake(there: Hypervisor) -> FakeMoves:
    if not isinstance(there, FakeMoves):
        raise TypeError("a domain goes from one fake to another")
    return there


def _in_pools(spec: DomainSpec, pools: Mapping[str, str]) -> DomainSpec:
    log, nvram = spec.serial_log, spec.nvram
    return dataclasses.replace(
        spec,
        disks=tuple(dataclasses.replace(disk, pool=pools[disk.pool]) for disk in spec.disks),
        cdroms=tuple(
            dataclasses.replace(disc, pool=pools[disc.pool]) if disc.pool else disc
            for disc in spec.cdroms
        ),
        serial_log=dataclasses.replace(log, pool=pools[log.pool]) if log else None,
        nvram=dataclasses.replace(nvram, pool=pools[nvram.pool]) if nvram else None,
    )
