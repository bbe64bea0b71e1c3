"""The fake's pools and volumes. Contents are kept, so that what was uploaded can be read back."""

from __future__ import annotations

import dataclasses
import io
from typing import BinaryIO
from uuid import NAMESPACE_DNS, uuid5

from hosts.virt.errors import AlreadyExists, NoSpace, NoSuchPool, NoSuchVolume, VirtError
from hosts.virt.fake.state import FakePool, FakeState, FakeVolume, counted
from hosts.virt.protocol import Progress
from hosts.virt.spec import PoolFacts, VolumeFacts, VolumeSpec

QCOW2_MAGIC = b"QFI\xfb"
QCOW2_OVERHEAD_BYTES = 196_608  # of an empty one
CHUNK_BYTES = 1024 * 1024
CLONE_REPORTS = 4


class FakeReader:
    def __init__(self, content: bytes, offset: int) -> None:
        self.size_bytes = len(content)
        self._rest = io.BytesIO(content[offset:])

    def read(self) -> bytes:
        return self._rest.read(CHUNK_BYTES)

    def close(self) -> None:
        self._rest.close()


class FakeVolumes(FakeState):
    @counted
    def list_pools(self) -> list[PoolFacts]:
        with self._lock:
            return [_pool_facts(pool) for pool in self._pools.values()]

    @counted
    def ensure_pool(self, name: str, path: str) -> PoolFacts:
        with self._lock:
            pool = self._pools.setdefault(name, FakePool(name, path, self.pool_bytes))
            pool.active = pool.autostart = True
            return _pool_facts(pool)

    @counted
    def refresh_pool(self, pool: str) -> None:
        self._pool(pool)

    @counted
    def list_volumes(self, pool: str) -> list[VolumeFacts]:
        with self._lock:
            return [volume.facts for volume in self._pool(pool).volumes.values()]

    @counted
    def volume(self, pool: str, name: str) -> VolumeFacts:
        return self._volume(pool, name).facts

    @counted
    def create_volume(self, spec: VolumeSpec) -> VolumeFacts:
        return self._new_volume(spec).facts

    @counted
    def upload_volume(
        self, pool: str, name: str, source: BinaryIO, length: int, progress: Progress
    ) -> None:
        volume = self._volume(pool, name)
        parts: list[bytes] = []
        done = 0
        while done < length:
            part = source.read(min(CHUNK_BYTES, length - done))
            if not part:
                raise VirtError(f"the source ended at {done} of {length} bytes")
            parts.append(part)
            done += len(part)
            progress(done, length)
        content = b"".join(parts)
        with self._lock:
            self._reserve(pool, length - volume.facts.allocation_bytes)
            volume.content = content
            volume.facts = _probed(content, volume.facts)

    @counted
    def download_volume(self, pool: str, name: str, target: BinaryIO, progress: Progress) -> None:
        content = self._volume(pool, name).content
        target.write(content)
        progress(len(content), len(content))

    @counted
    def read_volume_end(self, pool: str, name: str, most_bytes: int) -> bytes:
        return self._volume(pool, name).content[-most_bytes:]

    @counted
    def open_volume(self, pool: str, name: str, offset: int = 0) -> FakeReader:
        return FakeReader(self._volume(pool, name).content, offset)

    @counted
    def clone_volume(
        self, pool: str, name: str, spec: VolumeSpec, progress: Progress
    ) -> VolumeFacts:
        source = self._volume(pool, name)
        total = source.facts.allocation_bytes
        copy = self._new_volume(spec)
        try:
            for step in range(1, CLONE_REPORTS + 1):
                progress(total * step // CLONE_REPORTS, total)
                self.wait("clone_volume")
        except BaseException:
            self._remove(spec.pool, spec.name)
            raise
        with self._lock:
            self._reserve(spec.pool, total)
            copy.content = source.content
            copy.facts = dataclasses.replace(
                copy.facts,
                allocation_bytes=total,
                capacity_bytes=max(spec.capacity_bytes, source.facts.capacity_bytes),
            )
            return copy.facts

    @counted
    def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None:
        with self._lock:
            volume = self._volume(pool, name)
            if capacity_bytes < volume.facts.capacity_bytes:
                raise VirtError("can't shrink capacity below current capacity")
            volume.facts = dataclasses.replace(volume.facts, capacity_bytes=capacity_bytes)

    @counted
    def delete_volume(self, pool: str, name: str) -> None:
        self._remove(pool, name)

    # --- private ------------------------------------------------------------------------------

    def _pool(self, name: str) -> FakePool:
        try:
            return self._pools[name]
        except KeyError:
            raise NoSuchPool(name) from None

    def _volume(self, pool: str, name: str) -> FakeVolume:
        try:
            return self._pool(pool).volumes[name]
        except KeyError:
            raise NoSuchVolume(f"{pool}/{name}") from None

    def _remove(self, pool: str, name: str) -> None:
        with self._lock:
            self._pool(pool).volumes.pop(name, None)

    def _reserve(self, pool: str, more_bytes: int) -> None:
        found = self._pool(pool)
        if found.allocation_bytes + more_bytes > found.capacity_bytes:
            raise NoSpace("No space left on device")

    def _new_volume(self, spec: VolumeSpec) -> FakeVolume:
        with self._lock:
            pool = self._pool(spec.pool)
            if spec.name in pool.volumes:
                raise AlreadyExists(spec.name)
            backing = None
            if spec.backing_volume is not None:
                backing = self._volume(spec.pool, spec.backing_volume).facts.path
            allocation = spec.allocation_bytes or 0
            if spec.format == "qcow2":
                allocation = max(allocation, QCOW2_OVERHEAD_BYTES)
            self._reserve(spec.pool, allocation)
            volume = FakeVolume(
                VolumeFacts(
                    pool=spec.pool,
                    name=spec.name,
                    path=f"{pool.path}/{spec.name}",
                    format=spec.format,
                    capacity_bytes=spec.capacity_bytes,
                    allocation_bytes=allocation,
                    backing_path=backing,
                )
            )
            pool.volumes[spec.name] = volume
            return volume


def _pool_facts(pool: FakePool) -> PoolFacts:
    return PoolFacts(
        name=pool.name,
        uuid=uuid5(NAMESPACE_DNS, f"{pool.name}.pool.fake"),
        kind="dir",
        path=pool.path,
        active=pool.active,
        autostart=pool.autostart,
        capacity_bytes=pool.capacity_bytes,
        allocation_bytes=pool.allocation_bytes,
        available_bytes=max(pool.capacity_bytes - pool.allocation_bytes, 0),
    )


def _probed(content: bytes, before: VolumeFacts) -> VolumeFacts:
    """libvirt looks at a file after an upload: format, and the virtual size of a qcow2."""
    length = len(content)
    if content.startswith(QCOW2_MAGIC):
        virtual = int.from_bytes(content[24:32], "big")
        return dataclasses.replace(
            before, allocation_bytes=length, capacity_bytes=virtual, format="qcow2"
        )
    capacity = max(before.capacity_bytes, length)
    return dataclasses.replace(before, allocation_bytes=length, capacity_bytes=capacity)
