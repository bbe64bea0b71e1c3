"""Snapshots inside the disks' own files."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from hosts.virt import parse
from hosts.virt.client.copies import CopyCalls
from hosts.virt.connection import Connection
from hosts.virt.errors import AlreadyExists, NoSuchSnapshot, UnknownVirtError, WrongState
from hosts.virt.protocol import Progress
from hosts.virt.spec import SnapshotFacts, SnapshotSpec
from hosts.virt.xml.snapshot import snapshot_xml, taken_snapshot_xml

TICK_S = 0.5


class SnapshotCalls(CopyCalls):
    def snapshots(self, uuid: UUID) -> list[SnapshotFacts]:
        return self._on_domain(uuid, _list)

    def create_snapshot(self, uuid: UUID, spec: SnapshotSpec, progress: Progress) -> None:
        self._long(uuid, lambda dom: _create(dom, spec), progress)

    def revert_snapshot(
        self, uuid: UUID, name: str, progress: Progress, *, paused: bool = False
    ) -> None:
        # By force: libvirt may have to start another QEMU for it, and says so otherwise.
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE

        def revert(dom: Any) -> None:
            snapshot = dom.snapshotLookupByName(name, 0)
            memory = parse.snapshot(snapshot.getXMLDesc(0), current=False).memory
            pause = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED if paused and memory else 0
            dom.revertToSnapshot(snapshot, flags | pause)

        self._long(uuid, revert, progress)

    def delete_snapshot(self, uuid: UUID, name: str, progress: Progress) -> None:
        with contextlib.suppress(NoSuchSnapshot):
            self._long(uuid, lambda dom: dom.snapshotLookupByName(name, 0).delete(0), progress)

    # --- private ------------------------------------------------------------------------------

    def _long(self, uuid: UUID, function: Callable[[Any], None], progress: Progress) -> None:
        """On a connection of its own, as long as it takes. libvirt cannot stop it: when
        ``progress`` raises, it goes on there without anybody waiting."""
        own = Connection(self.connection.uri)
        try:
            call = own.start(lambda conn: function(conn.lookupByUUIDString(str(uuid))))
            while not call.wait(TICK_S):
                progress(0, 0)
            call.result()
        finally:
            own.close()  # when the call has come back


# --- snapshots -----------------------------------------------------------------------------------


def _list(dom: Any) -> list[SnapshotFacts]:
    listed = dom.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    return [
        parse.snapshot(snapshot.getXMLDesc(0), current=bool(snapshot.isCurrent(0)))
        for snapshot in listed
    ]


def _create(dom: Any, spec: SnapshotSpec) -> None:
    if any(snapshot.getName() == spec.name for snapshot in dom.listAllSnapshots(0)):
        raise AlreadyExists(f"snapshot {spec.name}")
    if spec.memory and not dom.isActive():
        raise WrongState("domain is not running: it has no memory")
    if spec.memory or not dom.isActive():
        dom.snapshotCreateXML(snapshot_xml(spec), 0)
    else:
        _create_on_running_disks(dom, spec)


def _create_on_running_disks(dom: Any, spec: SnapshotSpec) -> None:
    """libvirt takes such snapshots of running domains only with the memory; QEMU takes them of
    all disks at one moment. libvirt is told of it afterwards, and reverts and deletes it."""
    nodes = _nodes(dom)
    missing = set(spec.disks) - set(nodes)
    if missing:
        raise UnknownVirtError(f"QEMU does not tell its name for {sorted(missing)}")
    # All or none have it: an earlier attempt may have ended before libvirt was told.
    if not all(spec.name in nodes[target].snapshots for target in spec.disks):
        actions = [
            {
                "type": "blockdev-snapshot-internal-sync",
                "data": {"device": nodes[target].name, "name": spec.name},
            }
            for target in spec.disks
        ]
        _monitor(dom, "transaction", actions=actions)
    parent = dom.snapshotCurrent(0).getName() if dom.hasCurrentSnapshot(0) else ""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    text = taken_snapshot_xml(
        spec, parent=parent, created_at=int(time.time()), domain_xml=dom.XMLDesc(flags)
    )
    dom.snapshotCreateXML(
        text,
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT,
    )


@dataclass(frozen=True, kw_only=True)
class _Node:
    name: str  # QEMU's
    snapshots: frozenset[str]


def _nodes(dom: Any) -> dict[str, _Node]:
    """Disk target -> QEMU's block node, by the file both speak of."""
    by_file = {
        inserted["image"]["filename"]: _Node(
            name=inserted["node-name"],
            snapshots=frozenset(s["name"] for s in inserted["image"].get("snapshots", ())),
        )
        for device in _monitor(dom, "query-block")
        if (inserted := device.get("inserted"))
    }
    return {
        target: by_file[path]
        for target, path in parse.disk_files(dom.XMLDesc(0)).items()
        if path in by_file
    }


def _monitor(dom: Any, command: str, **arguments: Any) -> Any:
    text = json.dumps({"execute": command, "arguments": arguments})
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(dom, text, 0))
    if "error" in answer:
        raise UnknownVirtError(f"{command}: {answer['error'].get('desc', '')}"[:500])
    return answer["return"]
