"""The fake's snapshots: contents go back and forth as on a host."""

from __future__ import annotations

import dataclasses
import time
from uuid import UUID

from hosts.virt.errors import AlreadyExists, NoSuchSnapshot, WrongState
from hosts.virt.fake.copies import FakeCopies
from hosts.virt.fake.state import FakeDomain, FakeSnapshot, counted
from hosts.virt.protocol import Progress
from hosts.virt.spec import DomainState, SnapshotFacts, SnapshotSpec


class FakeSnapshots(FakeCopies):
    @counted
    def snapshots(self, uuid: UUID) -> list[SnapshotFacts]:
        domain = self._domain(uuid)
        with self._lock:
            return [
                dataclasses.replace(kept.facts, current=name == domain.current_snapshot)
                for name, kept in domain.snapshots.items()
            ]

    @counted
    def create_snapshot(self, uuid: UUID, spec: SnapshotSpec, progress: Progress) -> None:
        domain = self._domain(uuid)
        if spec.name in domain.snapshots:
            raise AlreadyExists(spec.name)
        if spec.memory and not domain.on:
            raise WrongState("domain is not running")
        progress(0, 0)
        with self._lock:
            state = domain.state if spec.memory else DomainState.SHUTOFF
            domain.snapshots[spec.name] = FakeSnapshot(
                facts=SnapshotFacts(
                    name=spec.name,
                    parent=domain.current_snapshot,
                    state=state,
                    memory=spec.memory,
                    internal=True,
                    current=True,
                    description=spec.description,
                    created_at=time.time(),
                ),
                spec=domain.spec,
                disks={
                    target: dataclasses.replace(self._disk(domain, target)) for target in spec.disks
                },
            )
            domain.current_snapshot = spec.name

    @counted
    def revert_snapshot(
        self, uuid: UUID, name: str, progress: Progress, *, paused: bool = False
    ) -> None:
        domain = self._domain(uuid)
        kept = self._snapshot(domain, name)
        progress(0, 0)
        if domain.on:
            self._stop(domain, DomainState.SHUTOFF, "from snapshot")
        with self._lock:
            domain.spec, domain.next_spec = kept.spec, None
            for target, volume in kept.disks.items():
                current = self._disk(domain, target)
                current.content, current.facts = volume.content, volume.facts
            domain.current_snapshot = name
        if kept.facts.memory:
            self.start(uuid, paused=True)
            if not paused:
                domain.state, domain.reason = DomainState.RUNNING, "from snapshot"

    @counted
    def delete_snapshot(self, uuid: UUID, name: str, progress: Progress) -> None:
        domain = self._domain(uuid)
        progress(0, 0)
        with self._lock:
            gone = domain.snapshots.pop(name, None)
            if gone is None:
                return
            parent = gone.facts.parent
            for kept in domain.snapshots.values():
                if kept.facts.parent == name:
                    kept.facts = dataclasses.replace(kept.facts, parent=parent)
            if domain.current_snapshot == name:
                domain.current_snapshot = parent

    # --- private ------------------------------------------------------------------------------

    def _snapshot(self, domain: FakeDomain, name: str) -> FakeSnapshot:
        try:
            return domain.snapshots[name]
        except KeyError:
            raise NoSuchSnapshot(name) from None
