"""Pools and volumes, all through libvirt: a remote host needs nothing of ours."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import libvirt

from hosts.virt import deadlines, parse, streams
from hosts.virt.client.base import Calls
from hosts.virt.connection import WORK_TIMEOUT_S, Connection
from hosts.virt.errors import AlreadyExists, NoSuchPool, NoSuchVolume, VirtError
from hosts.virt.parse import PoolOfPath
from hosts.virt.protocol import Progress
from hosts.virt.spec import PoolFacts, VolumeFacts, VolumeSpec
from hosts.virt.xml.pool import directory_pool_xml
from hosts.virt.xml.volume import volume_xml

log = logging.getLogger("kvmweb.virt")

# A refresh reads every file of the pool; several callers in a row want the same one.
REFRESH_INTERVAL_S = 2.0
POOL_PATHS_FOR_S = 30.0
CLONE_TICK_S = 0.5
# After ``progress`` said stop: a copy that ends within this is deleted before the caller goes on.
CLONE_STOP_WAIT_S = 5.0
CLONE_STOP_LIMIT_S = 3600.0


class VolumeCalls(Calls):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._refreshed: dict[str, float] = {}
        self._refresh_lock = threading.Lock()
        self._pool_paths: dict[str, str] = {}
        self._pool_paths_at = float("-inf")

    # --- pools --------------------------------------------------------------------------------

    def list_pools(self) -> list[PoolFacts]:
        return self.connection.call(
            lambda conn: [_pool_facts(pool) for pool in conn.listAllStoragePools(0)],
            WORK_TIMEOUT_S,
        )

    def ensure_pool(self, name: str, path: str) -> PoolFacts:
        return self.connection.call(lambda conn: _ensure_pool(conn, name, path), WORK_TIMEOUT_S)

    def refresh_pool(self, pool: str) -> None:
        """At most once in ``REFRESH_INTERVAL_S``; what was seen so recently is called fresh."""
        with self._refresh_lock:
            if time.monotonic() - self._refreshed.get(pool, float("-inf")) < REFRESH_INTERVAL_S:
                return
            self.connection.call(
                lambda conn: conn.storagePoolLookupByName(pool).refresh(0), WORK_TIMEOUT_S
            )
            self._refreshed[pool] = time.monotonic()

    # --- volumes ------------------------------------------------------------------------------

    def list_volumes(self, pool: str) -> list[VolumeFacts]:
        return self.connection.call(
            lambda conn: [
                facts
                for volume in conn.storagePoolLookupByName(pool).listAllVolumes(0)
                if (facts := _facts_unless_gone(pool, volume)) is not None
            ],
            WORK_TIMEOUT_S,
        )

    def volume(self, pool: str, name: str) -> VolumeFacts:
        return self.connection.call(lambda conn: _facts(pool, _look_up(conn, pool, name)))

    def create_volume(self, spec: VolumeSpec) -> VolumeFacts:
        def create(conn: Any) -> VolumeFacts:
            return _facts(spec.pool, _create(conn, spec))

        return self.connection.call(create, WORK_TIMEOUT_S)

    def upload_volume(
        self, pool: str, name: str, source: BinaryIO, length: int, progress: Progress
    ) -> None:
        with self._own_connection() as own:
            streams.upload(own, lambda conn: _look_up(conn, pool, name), source, length, progress)

    def download_volume(self, pool: str, name: str, target: BinaryIO, progress: Progress) -> None:
        with self._own_connection() as own:
            streams.download(own, lambda conn: _look_up(conn, pool, name), target, progress)

    def read_volume_end(self, pool: str, name: str, most_bytes: int) -> bytes:
        return self.connection.call(
            lambda conn: streams.read_end(conn, _look_up(conn, pool, name), most_bytes),
            WORK_TIMEOUT_S,
        )

    def open_volume(self, pool: str, name: str, offset: int = 0) -> streams.Reader:
        own = Connection(self.connection.uri)
        return streams.Reader(own, lambda conn: _look_up(conn, pool, name), offset)

    def clone_volume(
        self, pool: str, name: str, spec: VolumeSpec, progress: Progress
    ) -> VolumeFacts:
        """libvirt has no way to stop such a copy: when it fails or ``progress`` raises, the new
        volume is deleted as soon as the host is done with it, by a thread that stays behind."""
        source = self.volume(pool, name)
        own = Connection(self.connection.uri)
        copy = own.start(lambda conn: _copy(conn, pool, name, spec))
        try:
            while not copy.wait(CLONE_TICK_S):
                written = self._allocation(spec)
                progress(min(written, source.allocation_bytes), source.allocation_bytes)
            copy.result()
            if self.volume(spec.pool, spec.name).capacity_bytes < spec.capacity_bytes:
                self.resize_volume(spec.pool, spec.name, spec.capacity_bytes)
            progress(source.allocation_bytes, source.allocation_bytes)
            return self.volume(spec.pool, spec.name)
        except BaseException:
            cleanup = deadlines.Call(lambda: self._discard(copy, spec), name="libvirt-unclone")
            cleanup.wait(CLONE_STOP_WAIT_S)
            raise
        finally:
            own.close()

    def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None:
        self.connection.call(
            lambda conn: _look_up(conn, pool, name).resize(capacity_bytes, 0), WORK_TIMEOUT_S
        )

    def delete_volume(self, pool: str, name: str) -> None:
        with contextlib.suppress(NoSuchVolume):
            self.connection.call(lambda conn: _look_up(conn, pool, name).delete(0), WORK_TIMEOUT_S)

    # --- private ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _own_connection(self) -> Iterator[Connection]:
        """For work that holds its connection for minutes."""
        own = Connection(self.connection.uri)
        try:
            yield own
        finally:
            own.close()

    def _allocation(self, spec: VolumeSpec) -> int:
        try:
            return self.volume(spec.pool, spec.name).allocation_bytes
        except (NoSuchVolume, NoSuchPool):
            return 0  # not begun yet

    def _discard(self, copy: deadlines.Call[None], spec: VolumeSpec) -> None:
        if not copy.wait(CLONE_STOP_LIMIT_S):
            return
        try:
            copy.result()
        except AlreadyExists:
            return  # not ours to delete
        except VirtError:
            pass  # libvirt removes what it could not finish; make sure
        try:
            self.delete_volume(spec.pool, spec.name)
        except VirtError as error:
            log.warning("a stopped copy stays: %s/%s ref=%s", spec.pool, spec.name, error.ref)

    def _pool_of_path(self) -> PoolOfPath:
        """Which pool a disk's file is in, by the pools' own paths, remembered for a while."""
        if time.monotonic() - self._pool_paths_at > POOL_PATHS_FOR_S:
            self._pool_paths = {pool.path.rstrip("/"): pool.name for pool in self.list_pools()}
            self._pool_paths_at = time.monotonic()
        known = self._pool_paths

        def pool_of(path: str) -> tuple[str, str] | None:
            file = PurePosixPath(path)
            pool = known.get(str(file.parent))
            return (pool, file.name) if pool else None

        return pool_of


def _look_up(conn: Any, pool: str, name: str) -> Any:
    return conn.storagePoolLookupByName(pool).storageVolLookupByName(name)


def _copy(conn: Any, pool: str, name: str, spec: VolumeSpec) -> None:
    target = conn.storagePoolLookupByName(spec.pool)
    text = volume_xml(spec, _backing_path(target, spec))
    target.createXMLFrom(text, _look_up(conn, pool, name), 0)


def _facts(pool: str, volume: Any) -> VolumeFacts:
    return parse.volume(pool, volume.XMLDesc(0))


def _facts_unless_gone(pool: str, volume: Any) -> VolumeFacts | None:
    try:
        return _facts(pool, volume)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def _create(conn: Any, spec: VolumeSpec) -> Any:
    pool = conn.storagePoolLookupByName(spec.pool)
    return pool.createXML(volume_xml(spec, _backing_path(pool, spec)), 0)


def _backing_path(pool: Any, spec: VolumeSpec) -> str | None:
    if spec.backing_volume is None:
        return None
    return str(pool.storageVolLookupByName(spec.backing_volume).path())


def _pool_facts(pool: Any) -> PoolFacts:
    return parse.pool(
        pool.XMLDesc(0),
        active=bool(pool.isActive()),
        autostart=bool(pool.isPersistent() and pool.autostart()),
    )


def _ensure_pool(conn: Any, name: str, path: str) -> PoolFacts:
    try:
        pool = conn.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        pool = conn.storagePoolDefineXML(directory_pool_xml(name, path), 0)
    if not pool.isActive():
        pool.build(0)  # makes the directory; content with one that is there
        pool.create(0)
    if pool.isPersistent() and not pool.autostart():
        pool.setAutostart(1)
    return _pool_facts(pool)
