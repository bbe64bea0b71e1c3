"""Domains that go to another host: live by libvirt's migration, or their definition alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import deadlines
from hosts.virt.client.domains import DomainCalls
from hosts.virt.connection import WORK_TIMEOUT_S, Connection
from hosts.virt.errors import NoSuchDomain, OperationTimeout, UnknownVirtError, WrongState
from hosts.virt.protocol import Hypervisor, Progress
from hosts.virt.uri import migration_uri
from hosts.virt.xml.moves import moved

TICK_S = 0.5
STOP_WAIT_S = 60.0
STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
TO_GO = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    # What a disk stands on is there: only what it holds itself goes over.
    | libvirt.VIR_MIGRATE_NON_SHARED_INC
    # A guest that writes faster than the network carries is slowed down until it has arrived.
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE
    # A disk that fails meanwhile would arrive with the guest.
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)


class MoveCalls(DomainCalls):
    def move_running(
        self,
        uuid: UUID,
        there: Hypervisor,
        pools: Mapping[str, str],
        progress: Progress,
        *,
        address: str = "",
    ) -> None:
        folders = self._folders(there, pools)
        params = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: moved(self._xml(uuid, TO_GO), folders),
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: moved(self._xml(uuid, STORED), folders),
        }
        if address:
            params[libvirt.VIR_MIGRATE_PARAM_URI] = migration_uri(address)
        here, other = Connection(self.connection.uri), Connection(_real(there).connection.uri)
        try:
            self._look_after(uuid, _begin(here, other, uuid, params), progress)
        finally:
            here.close()
            other.close()

    def stop_moving(self, uuid: UUID) -> None:
        self._on_domain(uuid, _abort, WORK_TIMEOUT_S)
        deadline = time.monotonic() + STOP_WAIT_S
        while self._on_domain(uuid, _is_moving):
            if time.monotonic() > deadline:
                raise OperationTimeout(f"the migration did not stop within {STOP_WAIT_S:g} s")
            time.sleep(TICK_S)

    def send_definition(self, uuid: UUID, there: Hypervisor, pools: Mapping[str, str]) -> None:
        text = moved(self._xml(uuid, STORED), self._folders(there, pools))
        autostart = self._on_domain(uuid, lambda dom: dom.autostart())

        def define(conn: Any) -> None:
            conn.defineXMLFlags(text, 0).setAutostart(autostart)

        _real(there).connection.call(define, WORK_TIMEOUT_S)

    # --- private ------------------------------------------------------------------------------

    def _xml(self, uuid: UUID, flags: int) -> str:
        return str(self._on_domain(uuid, lambda dom: dom.XMLDesc(flags)))

    def _folders(self, there: Hypervisor, pools: Mapping[str, str]) -> dict[str, str]:
        """Of this host's pools -> of that one's."""
        mine = {pool.name: pool.path.rstrip("/") for pool in self.list_pools()}
        theirs = {pool.name: pool.path.rstrip("/") for pool in there.list_pools()}
        return {mine[ours]: theirs[other] for ours, other in pools.items()}

    def _look_after(self, uuid: UUID, work: deadlines.Call[None], progress: Progress) -> None:
        """Until it has ended. ``progress`` is called in the caller's thread; when it raises the
        guest stays, unless it has arrived already: then there is nothing to stop."""
        try:
            while not work.wait(TICK_S):
                # Gone already, between two looks; libvirt is about to say so.
                with contextlib.suppress(NoSuchDomain, WrongState):
                    progress(*self._on_domain(uuid, _how_far))
        except BaseException:
            with contextlib.suppress(NoSuchDomain, WrongState):
                self.stop_moving(uuid)
            work.wait(STOP_WAIT_S)
            raise
        work.result()


def _begin(
    here: Connection, other: Connection, uuid: UUID, params: dict[str, str]
) -> deadlines.Call[None]:
    """The client holds both connections: neither host needs a way into the other's libvirt."""

    def migrate(conn: Any, other_conn: Any) -> None:
        dom = conn.lookupByUUIDString(str(uuid))
        if not dom.isActive():
            raise WrongState("domain is not running")
        if dom.migrate3(other_conn, params, FLAGS) is None:
            raise UnknownVirtError("libvirt does not tell where the domain has gone")

    def with_both(conn: Any) -> None:
        inner = other.start(lambda other_conn: migrate(conn, other_conn))
        while not inner.wait(STOP_WAIT_S):
            pass
        inner.result()

    return here.start(with_both)


def _how_far(dom: Any) -> tuple[int, int]:
    stats = dom.jobStats(0)
    total = int(stats.get("data_total", 0))
    return total - int(stats.get("data_remaining", 0)), total


def _is_moving(dom: Any) -> bool:
    if not dom.isActive():
        return False
    stats = dom.jobStats(0)
    going = stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    return bool(stats.get("type", 0)) and going


def _abort(dom: Any) -> None:
    if _is_moving(dom):
        dom.abortJob()


def _real(there: Hypervisor) -> MoveCalls:
    if not isinstance(there, MoveCalls):
        raise TypeError("a domain goes from one libvirt to another")
    return there
