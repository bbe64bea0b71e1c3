"""The fake's domains: states change as libvirt's do, and each change is told as an event."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import socket
from collections.abc import Sequence
from uuid import UUID

from PIL import Image

from hosts.virt.errors import AgentSilent, AlreadyExists, NoSuchDomain, Unsupported, WrongState
from hosts.virt.fake.console import FakeConsoles
from hosts.virt.fake.state import FakeDomain, counted
from hosts.virt.fake.volumes import FakeVolumes
from hosts.virt.parse import usable_address
from hosts.virt.protocol import Progress
from hosts.virt.spec import (
    CdromSpec,
    DiskFacts,
    DiskSpec,
    DisplayPort,
    DomainEvent,
    DomainFacts,
    DomainSpec,
    DomainState,
    NicFacts,
)
from hosts.virt.xml.domain import domain_xml

RFB_GREETING = b"RFB 003.008\n"


class FakeDomains(FakeConsoles, FakeVolumes):
    # --- what is there ------------------------------------------------------------------------

    @counted
    def list_domains(self) -> list[DomainFacts]:
        with self._lock:
            return [
                dataclasses.replace(
                    _facts(domain), metadata=None, disks=(), nics=(), vnc_socket=None, id=None
                )
                for domain in self._domains.values()
            ]

    @counted
    def domain(self, uuid: UUID) -> DomainFacts:
        return _facts(self._domain(uuid))

    @counted
    def domain_xml(
        self,
        uuid: UUID,
        *,
        inactive: bool = False,
        secure: bool = False,  # noqa: ARG002 - the protocol's
    ) -> str:
        domain = self._domain(uuid)
        spec = (domain.next_spec if inactive else None) or domain.spec
        return domain_xml(spec, self._paths(spec, there=False))

    # --- define -------------------------------------------------------------------------------

    @counted
    def define(self, spec: DomainSpec) -> None:
        with self._lock:
            self._paths(spec)  # NoSuchPool, NoSuchVolume
            for other in self._domains.values():
                if other.spec.name == spec.name and other.spec.uuid != spec.uuid:
                    raise AlreadyExists(spec.name)
            domain = self._domains.setdefault(spec.uuid, FakeDomain(spec))
            domain.spec = spec
            domain.persistent = True
        self._lifecycle(domain, "defined")

    @counted
    def undefine(self, uuid: UUID) -> None:
        with self._lock:
            domain = self._domains.get(uuid)
            if domain is None:
                return
            domain.persistent = False
            if not domain.on:
                del self._domains[uuid]
        self._lifecycle(domain, "undefined")

    @counted
    def set_metadata(self, uuid: UUID, spec: DomainSpec) -> None:
        with self._lock:
            domain = self._domain(uuid)
            domain.spec = dataclasses.replace(
                domain.spec,
                title=spec.title,
                description=spec.description,
                metadata=spec.metadata,
            )
        self.emit(DomainEvent(kind="metadata", uuid=uuid, name=domain.spec.name))

    @counted
    def set_autostart(self, uuid: UUID, *, autostart: bool) -> None:
        with self._lock:
            domain = self._domain(uuid)
            domain.spec = dataclasses.replace(domain.spec, autostart=autostart)

    # --- power --------------------------------------------------------------------------------

    @counted
    def start(self, uuid: UUID, *, paused: bool = False) -> None:
        with self._lock:
            domain = self._domain(uuid)
            if domain.on:
                raise WrongState("Requested operation is not valid: domain is already running")
            self._paths(domain.spec)
            state = DomainState.PAUSED if paused else DomainState.RUNNING
            domain.state, domain.reason = state, "starting" if paused else "booted"
            domain.id, self._next_id = self._next_id, self._next_id + 1
            domain.screen_port = 5900 + domain.id if domain.screen_by_port else None
            domain.boots += not domain.saved
            domain.saved = False
        self.log_serial(domain, b"")
        self._lifecycle(domain, "started")
        if self.boots_by_itself and not paused:
            self._boot(uuid)

    def _boot(self, uuid: UUID) -> None:
        raise NotImplementedError  # the guest's part

    @counted
    def shutdown(self, uuid: UUID, *, by: str = "") -> None:
        domain = self._running(uuid)
        if by == "agent" and uuid not in self.agents:
            raise AgentSilent("Guest agent is not connected")
        if by == "agent" or uuid not in self.ignores_power_button:
            self._stop(domain, DomainState.SHUTOFF, "shutdown")

    @counted
    def force_off(self, uuid: UUID, *, graceful: bool = False) -> None:  # noqa: ARG002
        domain = self._domain(uuid)
        if domain.on:
            self._stop(domain, DomainState.SHUTOFF, "destroyed")

    @counted
    def reboot(self, uuid: UUID) -> None:
        domain = self._running(uuid)
        if uuid not in self.ignores_power_button:
            self.emit(DomainEvent(kind="reboot", uuid=uuid, name=domain.spec.name))

    @counted
    def reset(self, uuid: UUID) -> None:
        domain = self._running(uuid)
        self.emit(DomainEvent(kind="reboot", uuid=uuid, name=domain.spec.name))

    @counted
    def suspend(self, uuid: UUID) -> None:
        domain = self._running(uuid)
        with self._lock:
            domain.state, domain.reason = DomainState.PAUSED, "user"
        self._lifecycle(domain, "suspended")

    @counted
    def resume(self, uuid: UUID) -> None:
        domain = self._running(uuid)
        with self._lock:
            if domain.state is DomainState.RUNNING:
                raise WrongState("Requested operation is not valid: domain is already running")
            domain.state, domain.reason = DomainState.RUNNING, "unpaused"
        self._lifecycle(domain, "resumed")

    @counted
    def save(self, uuid: UUID, progress: Progress) -> None:
        domain = self._running(uuid)
        progress(0, 0)
        domain.saved = True
        self._stop(domain, DomainState.SHUTOFF, "saved")

    @counted
    def discard_saved(self, uuid: UUID) -> None:
        self._domain(uuid).saved = False

    @counted
    def inject_nmi(self, uuid: UUID) -> None:
        self._running(uuid)

    @counted
    def send_keys(self, uuid: UUID, keycodes: Sequence[int]) -> None:
        self._running(uuid)
        self.keys_sent.append((uuid, tuple(keycodes)))

    # --- its tray, its screen, its addresses ----------------------------------------------------

    @counted
    def eject_cdrom(self, uuid: UUID, target: str) -> None:
        with self._lock:
            domain = self._domain(uuid)
            loaded = any(cdrom.target == target and cdrom.volume for cdrom in domain.spec.cdroms)
            if loaded:
                domain.spec = dataclasses.replace(
                    domain.spec,
                    cdroms=tuple(_emptied(cdrom, target) for cdrom in domain.spec.cdroms),
                )
        if loaded and domain.on:
            self.emit(DomainEvent(kind="tray", uuid=uuid, name=domain.spec.name))

    @counted
    def forget_kernel(self, uuid: UUID) -> None:
        with self._lock:
            domain = self._domain(uuid)
            if domain.on:
                stored = domain.next_spec or domain.spec
                domain.next_spec = dataclasses.replace(stored, kernel=None)
            else:
                domain.spec = dataclasses.replace(domain.spec, kernel=None)

    @counted
    def addresses(self, uuid: UUID, *, source: str = "lease") -> dict[str, list[str]]:
        domain = self._running(uuid)
        if source == "agent" and uuid not in self.agents:
            raise AgentSilent("Guest agent is not connected")
        found: dict[str, list[str]] = {}
        with self._lock:
            for nic in domain.spec.nics:
                for lease in self._leases:
                    if lease.mac == nic.mac.lower() and usable_address(lease.address):
                        found.setdefault(lease.mac, []).append(lease.address)
        return found

    @counted
    def screenshot(self, uuid: UUID) -> bytes:
        self._running(uuid)
        png = io.BytesIO()
        Image.new("RGB", (720, 400)).save(png, "PNG")
        return png.getvalue()

    @counted
    def open_graphics_fd(self, uuid: UUID) -> int:
        """One end of a socket pair; the other has greeted and waits in ``vnc_peers``."""
        self._running(uuid)
        ours, theirs = socket.socketpair()
        theirs.sendall(RFB_GREETING)
        self.vnc_peers.setdefault(uuid, []).append(theirs)
        return ours.detach()

    @counted
    def arrange_display(self, uuid: UUID, *, by_port: bool) -> None:
        self._domain(uuid).screen_by_port = by_port

    @counted
    def display_port(self, uuid: UUID) -> DisplayPort:
        domain = self._running(uuid)
        if domain.screen_port is None or domain.id is None:
            raise Unsupported("its screen is on no loopback port")
        secret = f"boot{domain.id:04}"
        return DisplayPort(
            address="127.0.0.1", port=domain.screen_port, password=secret, boot=domain.id
        )

    # --- private ------------------------------------------------------------------------------

    def _domain(self, uuid: UUID) -> FakeDomain:
        try:
            return self._domains[uuid]
        except KeyError:
            raise NoSuchDomain(str(uuid)) from None

    def _running(self, uuid: UUID) -> FakeDomain:
        domain = self._domain(uuid)
        if not domain.on:
            raise WrongState("Requested operation is not valid: domain is not running")
        return domain

    def _stop(self, domain: FakeDomain, state: DomainState, reason: str) -> None:
        with self._lock:
            domain.state, domain.reason, domain.id = state, reason, None
            domain.spec, domain.next_spec = domain.next_spec or domain.spec, None
            if not domain.persistent:
                self._domains.pop(domain.spec.uuid, None)
        for peer in self.vnc_peers.pop(domain.spec.uuid, []):
            with contextlib.suppress(OSError):
                peer.close()
        line = self.lines.get(domain.spec.uuid)
        if line is not None:
            line.break_off()
        self._lifecycle(domain, "stopped")

    def _paths(self, spec: DomainSpec, *, there: bool = True) -> dict[tuple[str, str], str]:
        """``there``: NoSuchVolume for a file that is gone; a definition names it all the same."""

        def path_of(pool: str, name: str) -> str:
            found = self._pool(pool)
            return self._volume(pool, name).facts.path if there else f"{found.path}/{name}"

        named: list[DiskSpec | CdromSpec] = [*spec.disks, *spec.cdroms]
        log = spec.serial_log
        logs = {(log.pool, log.name): f"{self._pool(log.pool).path}/{log.name}"} if log else {}
        if spec.kernel is not None:
            for name in (spec.kernel.kernel, spec.kernel.initrd):
                logs[spec.kernel.pool, name] = path_of(spec.kernel.pool, name)
        return logs | {
            (device.pool, device.volume): path_of(device.pool, device.volume)
            for device in named
            if device.pool and device.volume
        }


def _emptied(cdrom: CdromSpec, target: str) -> CdromSpec:
    if cdrom.target != target:
        return cdrom
    return dataclasses.replace(cdrom, pool=None, volume=None)


def _facts(domain: FakeDomain) -> DomainFacts:
    spec = domain.spec
    disks = [
        DiskFacts(
            target=disk.target,
            bus=disk.bus,
            device="disk",
            source=f"{disk.pool}/{disk.volume}",
            format=disk.format,
            pool=disk.pool,
            volume=disk.volume,
        )
        for disk in spec.disks
    ] + [
        DiskFacts(
            target=cdrom.target,
            bus="scsi",
            device="cdrom",
            source=f"{cdrom.pool}/{cdrom.volume}" if cdrom.volume else None,
            format="raw",
            pool=cdrom.pool,
            volume=cdrom.volume,
        )
        for cdrom in spec.cdroms
    ]
    nics = tuple(
        NicFacts(
            mac=nic.mac.lower(),
            network=nic.network if not nic.bridge else None,
            bridge=nic.bridge,
            model=nic.model,
            target=f"vnet{index}" if domain.on else None,
        )
        for index, nic in enumerate(spec.nics)
    )
    vnc = f"/var/lib/libvirt/qemu/domain-{domain.id}-{spec.name}/vnc.sock"
    return DomainFacts(
        uuid=spec.uuid,
        name=spec.name,
        state=domain.state,
        reason=domain.reason,
        persistent=domain.persistent,
        vcpus=spec.vcpus,
        memory_mib=spec.memory_mib,
        cpu_time_ns=1_000_000_000 if domain.on else None,
        sent_bytes=0 if domain.on else None,
        memory_used_mib=spec.memory_mib // 2 if domain.on else None,
        autostart=spec.autostart,
        metadata=spec.metadata,
        disks=tuple(disks),
        nics=nics,
        vnc_socket=vnc if domain.on and spec.vnc and domain.screen_port is None else None,
        id=domain.id,
        saved=domain.saved,
    )
