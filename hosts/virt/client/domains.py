"""Domains: what is there, define and undefine, the power verbs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import parse
from hosts.virt.client import host
from hosts.virt.client.hardware import HardwareCalls
from hosts.virt.connection import WORK_TIMEOUT_S, Connection
from hosts.virt.errors import AgentSilent, AlreadyExists, NoSuchDomain, WrongState
from hosts.virt.parse import PoolOfPath
from hosts.virt.protocol import Progress
from hosts.virt.spec import DomainFacts, DomainSpec
from hosts.virt.xml import edits
from hosts.virt.xml.domain import Paths, domain_xml
from hosts.virt.xml.metadata import KVMWEB_NS, KVMWEB_PREFIX, bare_text

WANTED_STATS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)
# Without NOWAIT one domain whose monitor hangs holds up the answer for all.
NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
KEY_MS = 100  # how long keys are held
VIDEO_EVERYWHERE = "vga"
DIRECTORIES = ("dir", "fs", "netfs")  # kinds of pool whose volumes are files in a folder
UNDEFINE_TPM = 32  # VIR_DOMAIN_UNDEFINE_TPM
UNDEFINE_TPM_SINCE = 8_009_000
UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


class DomainCalls(HardwareCalls):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._videos: tuple[str, ...] | None = None

    # --- what is there ------------------------------------------------------------------------

    def list_domains(self) -> list[DomainFacts]:
        return self.connection.call(_list_domains)

    def domain(self, uuid: UUID) -> DomainFacts:
        pool_of = self._pool_of_path()
        return self._on_domain(uuid, lambda dom: _read_domain(dom, pool_of))

    def domain_xml(self, uuid: UUID, *, inactive: bool = False, secure: bool = False) -> str:
        flags = (libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0) | (
            libvirt.VIR_DOMAIN_XML_SECURE if secure else 0
        )
        return str(self._on_domain(uuid, lambda dom: dom.XMLDesc(flags)))

    # --- define -------------------------------------------------------------------------------

    def define(self, spec: DomainSpec) -> None:
        paths = self._paths(spec)
        if spec.video not in self._video_models():
            spec = dataclasses.replace(spec, video=VIDEO_EVERYWHERE)
        self.connection.call(lambda conn: _define(conn, spec, paths), WORK_TIMEOUT_S)

    def undefine(self, uuid: UUID) -> None:
        with contextlib.suppress(NoSuchDomain):
            self._on_domain(uuid, _undefine, WORK_TIMEOUT_S)

    def set_metadata(self, uuid: UUID, spec: DomainSpec) -> None:
        """Title, description and ownership, in the stored definition and, when it runs, live."""
        self._on_domain(uuid, lambda dom: _set_metadata(dom, spec))

    def set_autostart(self, uuid: UUID, *, autostart: bool) -> None:
        self._on_domain(uuid, lambda dom: dom.setAutostart(int(autostart)))

    # --- power --------------------------------------------------------------------------------

    def start(self, uuid: UUID, *, paused: bool = False) -> None:
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        self._on_domain(uuid, lambda dom: dom.createWithFlags(flags), WORK_TIMEOUT_S)

    def shutdown(self, uuid: UUID, *, by: str = "") -> None:
        if by != "agent":
            self._on_domain(uuid, _press_power_button)
        if by == "acpi":
            return
        if parse.agent_connected(self.domain_xml(uuid)):
            self._shut_down_by_agent(uuid)
        elif by == "agent":
            raise AgentSilent("Guest agent is not connected")

    def force_off(self, uuid: UUID, *, graceful: bool = False) -> None:
        flags = libvirt.VIR_DOMAIN_DESTROY_GRACEFUL if graceful else 0
        try:
            self._on_domain(uuid, lambda dom: dom.destroyFlags(flags), WORK_TIMEOUT_S)
        except WrongState:
            if self._on_domain(uuid, lambda dom: bool(dom.isActive())):
                raise

    def save(self, uuid: UUID, progress: Progress) -> None:
        # However it was: a suspended one would come back suspended, with the reason of a domain
        # that is just being started, and nobody could tell.
        flags = libvirt.VIR_DOMAIN_SAVE_RUNNING
        self._long(uuid, lambda dom: dom.managedSave(flags), progress)

    def discard_saved(self, uuid: UUID) -> None:
        def discard(dom: Any) -> None:
            if _has_saved(dom):
                dom.managedSaveRemove(0)

        self._on_domain(uuid, discard, WORK_TIMEOUT_S)

    def inject_nmi(self, uuid: UUID) -> None:
        self._on_domain(uuid, lambda dom: dom.injectNMI(0))

    def send_keys(self, uuid: UUID, keycodes: Sequence[int]) -> None:
        codes = list(keycodes)
        linux = libvirt.VIR_KEYCODE_SET_LINUX
        self._on_domain(uuid, lambda dom: dom.sendKey(linux, KEY_MS, codes, len(codes), 0))

    def reboot(self, uuid: UUID) -> None:
        """By the power button; libvirt starts the guest again once it has ended. Asking the agent
        as well would restart it twice."""
        self._on_domain(uuid, lambda dom: dom.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN))

    def reset(self, uuid: UUID) -> None:
        self._on_domain(uuid, lambda dom: dom.reset(0))

    def suspend(self, uuid: UUID) -> None:
        self._on_domain(uuid, lambda dom: dom.suspend())

    def resume(self, uuid: UUID) -> None:
        self._on_domain(uuid, lambda dom: dom.resume())

    def _shut_down_by_agent(self, uuid: UUID) -> None:
        """A guest without an ACPI daemon hears only its agent. The call blocks until the guest is
        down: it is not waited for, and has a connection of its own."""
        own = Connection(self.connection.uri)
        flags = libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT
        own.start(lambda conn: conn.lookupByUUIDString(str(uuid)).shutdownFlags(flags))
        own.close()  # when that call has come back

    # --- what storage knows ---------------------------------------------------------------------

    def _video_models(self) -> tuple[str, ...]:
        """What this host's QEMU can show. Some distributions package virtio's apart."""
        if self._videos is None:
            self._videos = self.connection.call(
                lambda conn: host.guest_support(conn, ()).video_models, WORK_TIMEOUT_S
            )
        return (*self._videos, "none")

    def _paths(self, spec: DomainSpec) -> Paths:
        """Where the spec's volumes are. NoSuchPool, NoSuchVolume."""
        wanted = {(disk.pool, disk.volume) for disk in spec.disks} | {
            (cdrom.pool, cdrom.volume) for cdrom in spec.cdroms if cdrom.pool and cdrom.volume
        }
        if spec.kernel is not None:
            boots = (spec.kernel.kernel, spec.kernel.initrd)
            wanted |= {(spec.kernel.pool, volume) for volume in boots}

        def look_up(conn: Any) -> dict[tuple[str, str], str]:
            paths = {
                (pool, volume): conn.storagePoolLookupByName(pool)
                .storageVolLookupByName(volume)
                .path()
                for pool, volume in wanted
            }
            return paths | _file_paths(conn, spec)

        return self.connection.call(look_up)


def _file_paths(conn: Any, spec: DomainSpec) -> dict[tuple[str, str], str]:
    """Where the serial log and the NVRAM will be; they are no volumes until they are written."""
    paths = {}
    for file in (spec.serial_log, spec.nvram):
        if file is None:
            continue
        pool = conn.storagePoolLookupByName(file.pool)
        facts = parse.pool(pool.XMLDesc(0), active=True, autostart=True)
        if facts.kind in DIRECTORIES:
            paths[file.pool, file.name] = f"{facts.path.rstrip('/')}/{file.name}"
    return paths


def _list_domains(conn: Any) -> list[DomainFacts]:
    """Four calls, however many domains there are."""
    listed = conn.getAllDomainStats(WANTED_STATS, NOWAIT)
    transient = _uuids(conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT))
    autostart = _uuids(conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART))
    saved = _uuids(conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE))
    return [
        parse.stats(
            UUID(bytes=dom.UUID()),
            dom.name(),
            values,
            persistent=dom.UUID() not in transient,
            autostart=dom.UUID() in autostart,
            saved=dom.UUID() in saved,
        )
        for dom, values in listed
    ]


def _uuids(domains: list[Any]) -> set[bytes]:
    return {dom.UUID() for dom in domains}


def _read_domain(dom: Any, pool_of: PoolOfPath) -> DomainFacts:
    conn = dom.connect()
    answers = conn.domainListGetStats([dom], WANTED_STATS, NOWAIT)
    if not answers:  # gone in between
        raise NoSuchDomain(dom.UUIDString())
    persistent = bool(dom.isPersistent())
    facts = parse.stats(
        UUID(bytes=dom.UUID()),
        dom.name(),
        answers[0][1],
        persistent=persistent,
        autostart=persistent and bool(dom.autostart()),
        saved=persistent and _has_saved(dom),
    )
    domain_id = dom.ID()
    return parse.domain(
        dom.XMLDesc(0), facts, pool_of, domain_id=domain_id if domain_id >= 0 else None
    )


def _has_saved(dom: Any) -> bool:
    try:
        return bool(dom.hasManagedSaveImage(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return False


def _define(conn: Any, spec: DomainSpec, paths: Paths) -> None:
    existing = _find(conn, spec.uuid)
    namesake = _find_name(conn, spec.name)
    if namesake is not None and namesake.UUID() != spec.uuid.bytes:
        raise AlreadyExists(f"domain {spec.name} has another UUID")
    if existing is None:
        text = domain_xml(spec, paths)
    else:
        text = edits.with_spec(
            existing.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE),
            spec,
            paths,
        )
        if existing.name() != spec.name and not existing.isActive():
            existing.rename(spec.name, 0)
    dom = conn.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    if bool(dom.autostart()) != spec.autostart:
        dom.setAutostart(int(spec.autostart))


def _find(conn: Any, uuid: UUID) -> Any | None:
    return _or_none(lambda: conn.lookupByUUIDString(str(uuid)))


def _find_name(conn: Any, name: str) -> Any | None:
    return _or_none(lambda: conn.lookupByName(name))


def _or_none(look_up: Any) -> Any | None:
    try:
        return look_up()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _undefine(dom: Any) -> None:
    flags = UNDEFINE_FLAGS
    if dom.connect().getLibVersion() >= UNDEFINE_TPM_SINCE:
        flags |= UNDEFINE_TPM
    try:
        dom.undefineFlags(flags)
    except libvirt.libvirtError as error:
        # A driver that has no such state refuses the flags for it (the test driver does).
        refused = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT)
        if error.get_error_code() not in refused:
            raise
        dom.undefine()


def _set_metadata(dom: Any, spec: DomainSpec) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if dom.isPersistent() else 0
    if dom.isActive():
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    for kind, text in (
        (libvirt.VIR_DOMAIN_METADATA_TITLE, spec.title or None),
        (libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, spec.description or None),
    ):
        dom.setMetadata(kind, text, None, None, flags)
    element = bare_text(spec.metadata) if spec.metadata is not None else None
    dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, KVMWEB_PREFIX, KVMWEB_NS, flags)


def _press_power_button(dom: Any) -> None:
    dom.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
