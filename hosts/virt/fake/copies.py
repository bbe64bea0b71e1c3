"""The fake's copies of running disks, backups among them, and disks that lose their backing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from uuid import UUID

from hosts.virt.errors import UnknownVirtError, Unsupported
from hosts.virt.fake.domains import FakeDomains
from hosts.virt.fake.state import FakeDomain, FakeVolume, counted
from hosts.virt.protocol import Progress
from hosts.virt.spec import DiskCopy

COPY_REPORTS = 4


class FakeCopies(FakeDomains):
    @counted
    def copy_running(self, uuid: UUID, copies: Iterable[DiskCopy], progress: Progress) -> None:
        domain = self._running(uuid)
        for copy in copies:
            source = self._disk(domain, copy.target)
            target = self._volume(copy.pool, copy.volume)
            total = source.facts.allocation_bytes
            for step in range(1, COPY_REPORTS + 1):
                progress(total * step // COPY_REPORTS, total)
                self.wait("copy_running")
            with self._lock:
                target.content = source.content
                target.facts = dataclasses.replace(target.facts, allocation_bytes=total)

    @counted
    def stop_copies(self, uuid: UUID) -> None:
        self._domain(uuid).backup = None

    @counted
    def begin_backup(self, uuid: UUID, copies: Iterable[DiskCopy]) -> None:
        if not self.has_backups:
            raise Unsupported("no virDomainBackupBegin")
        domain = self._running(uuid)
        with self._lock:
            domain.backup = [
                (self._volume(copy.pool, copy.volume), dataclasses.replace(source))
                for copy in copies
                for source in [self._disk(domain, copy.target)]
            ]

    @counted
    def finish_backup(self, uuid: UUID, progress: Progress) -> None:
        domain = self._running(uuid)
        if domain.backup is None:
            raise UnknownVirtError("libvirt does not tell how the backup ended")
        total = sum(source.facts.allocation_bytes for _target, source in domain.backup)
        for step in range(1, COPY_REPORTS + 1):
            progress(total * step // COPY_REPORTS, total)
            self.wait("finish_backup")
        with self._lock:
            for target, source in domain.backup:
                target.content = source.content
                target.facts = dataclasses.replace(
                    target.facts, allocation_bytes=source.facts.allocation_bytes
                )
            domain.backup = None

    @counted
    def pull_backing(self, uuid: UUID, target: str, progress: Progress) -> None:
        domain = self._running(uuid)
        volume = self._disk(domain, target)
        for step in range(1, COPY_REPORTS + 1):
            progress(step, COPY_REPORTS)
            self.wait("pull_backing")
        with self._lock:
            volume.facts = dataclasses.replace(volume.facts, backing_path=None)

    # --- private ------------------------------------------------------------------------------

    def _disk(self, domain: FakeDomain, target: str) -> FakeVolume:
        spec = next(disk for disk in domain.spec.disks if disk.target == target)
        return self._volume(spec.pool, spec.volume)
