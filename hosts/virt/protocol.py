"""``Hypervisor``: all that the product asks of one host. libvirt's and the fake's contract.

Every method may raise ``hosts.virt.errors.VirtError`` and nothing else. Methods block; none is
called inside a database transaction or from a page. Names are libvirt's. An operation that finds
its work already done says so by its documented error (``AlreadyExists``, ``NoSuchDomain``...), or
does nothing where it is documented as idempotent: job steps rely on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol
from uuid import UUID

from hosts.virt.spec import (
    Check,
    DiskCopy,
    DiskSpec,
    DisplayPort,
    DomainFacts,
    DomainSpec,
    GuestFacts,
    HostEvent,
    HostFacts,
    HostSample,
    Lease,
    NetworkFacts,
    NicSpec,
    PoolFacts,
    SnapshotFacts,
    SnapshotSpec,
    VolumeFacts,
    VolumeSpec,
)

Progress = Callable[[int, int], None]  # (bytes done, bytes in all); may raise to stop
Receive = Callable[[bytes], None]  # in a thread of libvirt's: keeps it, within bounds, no more
Ended = Callable[[], None]  # likewise; called once, unless the line was closed before


class Hypervisor(Protocol):
    # --- host -------------------------------------------------------------------------------
    def ping(self) -> None: ...
    def facts(self) -> HostFacts: ...
    def sample(self) -> HostSample: ...
    def checks(self) -> list[Check]: ...
    def exposure(self) -> Check:
        """Of all domains that run: does no screen and no serial line listen on the network?
        Key ``consoles_closed``; fail names the domains and what listens. Part of ``checks`` too."""
        ...

    def probe_acceleration(self, *, timeout_s: float = 20) -> Check:
        """Boot a probe guest with KVM and wait for its marker. Result pass: KVM works."""
        ...

    def events(self) -> EventSource:
        """A new event feed of this host, on a connection of its own. Not connected yet."""
        ...

    def close(self) -> None: ...

    # --- domains ----------------------------------------------------------------------------
    def list_domains(self) -> list[DomainFacts]:
        """All domains, with state and statistics, by one bulk call (no per-domain XML)."""
        ...

    def domain(self, uuid: UUID) -> DomainFacts:
        """One domain with its metadata, disks and NICs. NoSuchDomain."""
        ...

    def domain_xml(self, uuid: UUID, *, inactive: bool = False, secure: bool = False) -> str: ...
    def define(self, spec: DomainSpec) -> None:
        """Define it, or bring the existing definition with this UUID in line. Idempotent."""
        ...

    def undefine(self, uuid: UUID) -> None:
        """Also NVRAM, TPM state, managed save, snapshot metadata. Idempotent."""
        ...

    def set_metadata(self, uuid: UUID, spec: DomainSpec) -> None: ...
    def set_autostart(self, uuid: UUID, *, autostart: bool) -> None: ...
    def start(self, uuid: UUID, *, paused: bool = False) -> None:
        """WrongState when it runs already."""
        ...

    def shutdown(self, uuid: UUID, *, by: str = "") -> None:
        """Ask by ``acpi`` (the power button) or by ``agent``; "" is the button, and the agent too
        where one answers. Returns at once. AgentSilent only with ``agent``."""
        ...

    def force_off(self, uuid: UUID, *, graceful: bool = False) -> None:
        """virDomainDestroy. Idempotent: a stopped domain stays stopped."""
        ...

    def save(self, uuid: UUID, progress: Progress) -> None:
        """Managed save: its memory goes to a file of libvirt's, it is off, and the next start goes
        on from there, running, also of one that was suspended. ``progress`` is called with (0, 0)
        meanwhile. WrongState when it is off."""
        ...

    def discard_saved(self, uuid: UUID) -> None:
        """The next start boots. Idempotent."""
        ...

    def inject_nmi(self, uuid: UUID) -> None: ...
    def send_keys(self, uuid: UUID, keycodes: Sequence[int]) -> None:
        """Linux' key codes, pressed together for a moment."""
        ...

    def reboot(self, uuid: UUID) -> None: ...
    def reset(self, uuid: UUID) -> None: ...
    def suspend(self, uuid: UUID) -> None: ...
    def resume(self, uuid: UUID) -> None: ...
    def eject_cdrom(self, uuid: UUID, target: str) -> None:
        """Empty the tray, live and in the stored definition. Idempotent."""
        ...

    def forget_kernel(self, uuid: UUID) -> None:
        """From the next start on it boots from its devices (``KernelSpec``). Idempotent."""
        ...

    def addresses(self, uuid: UUID, *, source: str = "lease") -> dict[str, list[str]]:
        """MAC -> addresses. source: lease | agent | arp. Loopback and link-local left out."""
        ...

    def screenshot(self, uuid: UUID) -> bytes:
        """PNG bytes (converted from PPM where the host gives that). WrongState when it is off."""
        ...

    def open_graphics_fd(self, uuid: UUID) -> int:
        """A connected descriptor to the domain's VNC (virDomainOpenGraphicsFD, SKIPAUTH)."""
        ...

    def arrange_display(self, uuid: UUID, *, by_port: bool) -> None:
        """Where the screen listens from the next start on: on a unix socket or, ``by_port``, on a
        loopback port that asks for a password. What an admin has set by hand stays: a password, or
        an address of the network. Idempotent."""
        ...

    def display_port(self, uuid: UUID) -> DisplayPort:
        """Of a running domain whose screen is on a loopback port, with a password that is good for
        a while: the one that it has, else a new one of this boot. WrongState when it is off.
        Unsupported: no such port. NoPassword: it asks for none, so that nobody could tell whose
        screen it is."""
        ...

    # --- snapshots and copies of running disks --------------------------------------------------
    def snapshots(self, uuid: UUID) -> list[SnapshotFacts]:
        """All that libvirt knows, parents before children. NoSuchDomain."""
        ...

    def create_snapshot(self, uuid: UUID, spec: SnapshotSpec, progress: Progress) -> None:
        """Take it; blocks as long as the host writes the guest's memory. ``progress`` is called
        with (0, 0) meanwhile: it cannot be measured. AlreadyExists; WrongState with ``memory``
        when the domain is off."""
        ...

    def revert_snapshot(
        self, uuid: UUID, name: str, progress: Progress, *, paused: bool = False
    ) -> None:
        """The machine as it was: disks, settings and, where it has it, memory; one without memory
        leaves the domain off. ``paused``: one with memory does not run on. NoSuchSnapshot."""
        ...

    def delete_snapshot(self, uuid: UUID, name: str, progress: Progress) -> None:
        """Its children become its parent's. Idempotent."""
        ...

    def copy_running(self, uuid: UUID, copies: Iterable[DiskCopy], progress: Progress) -> None:
        """Copies of all these disks as they are at one moment, the end of the call, as if the plug
        was pulled then; the guest goes on. Replaces copies that an earlier call has begun. When
        ``progress`` raises they are stopped. WrongState when the domain is off."""
        ...

    def begin_backup(self, uuid: UUID, copies: Iterable[DiskCopy]) -> None:
        """libvirt's own backup (push mode): whole copies of these disks as they are at this call,
        as if the plug was pulled then; it returns at once, and the guest goes on. Replaces what an
        earlier call has begun. Unsupported: the host has none (then ``copy_running``). WrongState
        when the domain is off."""
        ...

    def finish_backup(self, uuid: UUID, progress: Progress) -> None:
        """Until what ``begin_backup`` began is whole. NoSpace. When ``progress`` raises it is
        stopped."""
        ...

    def pull_backing(self, uuid: UUID, target: str, progress: Progress) -> None:
        """A running domain's disk takes over what it stands on, and stands on nothing afterwards.
        One that is under way is followed. When ``progress`` raises it is stopped, and the disk
        stands as it stood. WrongState when the domain is off."""
        ...

    def stop_copies(self, uuid: UUID) -> None:
        """Whatever of these is under way, where the one who called is gone. Idempotent."""
        ...

    def open_console(self, uuid: UUID, receive: Receive, ended: Ended) -> ConsoleLine:
        """The serial line: ``receive`` gets what the guest writes from now on, ``ended`` is called
        when the guest stopped or the connection broke. It takes one reader: ConsoleInUse; a reader
        is never thrown out. WrongState when it is off."""
        ...

    # --- to another host ------------------------------------------------------------------------
    # ``there`` is the other host's, opened as this one is: of libvirt or a fake, no stand-in.
    # ``pools``: the pool of this host -> that one's, in which the same file names are used.
    def move_running(
        self,
        uuid: UUID,
        there: Hypervisor,
        pools: Mapping[str, str],
        progress: Progress,
        *,
        address: str = "",
    ) -> None:
        """Live migration. The volumes of its disks are there already, as large and standing on the
        same; they are filled with what its disks hold themselves. When it returns the domain runs
        there and is defined there, and here no more. ``address``: by which this host reaches that
        one ("": as that one calls itself). When ``progress`` raises it is stopped, and the guest
        goes on here. WrongState when it is off; AlreadyExists: the name is taken there."""
        ...

    def stop_moving(self, uuid: UUID) -> None:
        """Whatever move of it is under way is given up, where the one who called is gone. Does not
        look whether it has arrived. Idempotent. NoSuchDomain."""
        ...

    def send_definition(self, uuid: UUID, there: Hypervisor, pools: Mapping[str, str]) -> None:
        """Define it there as it is stored here. Idempotent. NoSuchDomain; AlreadyExists: the name
        is taken there."""
        ...

    # --- what the guest's agent does ------------------------------------------------------------
    # Each may raise AgentSilent, AgentRefused, Unsupported and WrongState, and is bounded in time.
    def guest_facts(self, uuid: UUID) -> GuestFacts:
        """What the guest says of itself, bounded and cleaned (``hosts.virt.guestagent``)."""
        ...

    def set_guest_password(self, uuid: UUID, user: str, password_hash: str) -> None:
        """``password_hash`` is crypt(3)'s: the password itself goes nowhere."""
        ...

    def trim_guest(self, uuid: UUID, progress: Progress) -> None:
        """Its file systems tell the disks what they do not use. ``progress`` gets (0, 0)."""
        ...

    def freeze_guest(self, uuid: UUID) -> int:
        """Its file systems are written out and take no more writes until ``thaw_guest``; how many.
        Of one that is frozen: AgentRefused. Whoever calls it must thaw, whatever happens."""
        ...

    def thaw_guest(self, uuid: UUID) -> int:
        """Idempotent."""
        ...

    # --- settings -------------------------------------------------------------------------------
    def set_vcpus(self, uuid: UUID, vcpus: int) -> bool:
        """True: in force. False: stored, and in force from the next start on."""
        ...

    def set_memory(self, uuid: UUID, memory_mib: int) -> bool:
        """As ``set_vcpus``. A running guest is asked for what is too much by its balloon; it may
        keep it, so less is in force only from the next start on."""
        ...

    def set_boot_order(self, uuid: UUID, devices: Sequence[str]) -> bool:
        """From these and no others, in this order: targets of disks and drives, MACs of cards. As
        ``set_vcpus``."""
        ...

    def grow_disk(self, uuid: UUID, target: str, capacity_bytes: int) -> None:
        """Of a running domain, which sees it at once. WrongState when it is off: its volume can be
        resized then."""
        ...

    def attach_disk(self, uuid: UUID, disk: DiskSpec) -> None:
        """Live where it runs, and stored. Idempotent."""
        ...

    def detach_disk(self, uuid: UUID, target: str) -> None:
        """GuestKeepsDevice: then nothing has changed. Idempotent."""
        ...

    def attach_nic(self, uuid: UUID, nic: NicSpec) -> None: ...
    def detach_nic(self, uuid: UUID, mac: str) -> None: ...
    def change_nic(self, uuid: UUID, mac: str, *, network: str | None, link_up: bool) -> None:
        """Its cable, and its network unless None. Live and stored. Idempotent."""
        ...

    def load_cdrom(self, uuid: UUID, target: str, pool: str, volume: str) -> None:
        """Put a volume into the tray, live and stored. Idempotent."""
        ...

    # --- pools and volumes --------------------------------------------------------------------
    def list_pools(self) -> list[PoolFacts]: ...
    def ensure_pool(self, name: str, path: str) -> PoolFacts:
        """A directory pool, defined, built, started, autostarted. Idempotent."""
        ...

    def refresh_pool(self, pool: str) -> None: ...
    def list_volumes(self, pool: str) -> list[VolumeFacts]: ...
    def volume(self, pool: str, name: str) -> VolumeFacts: ...
    def create_volume(self, spec: VolumeSpec) -> VolumeFacts:
        """AlreadyExists when the name is taken."""
        ...

    def upload_volume(
        self, pool: str, name: str, source: BinaryIO, length: int, progress: Progress
    ) -> None:
        """Sparse-aware stream upload into an existing volume."""
        ...

    def download_volume(
        self, pool: str, name: str, target: BinaryIO, progress: Progress
    ) -> None: ...
    def read_volume_end(self, pool: str, name: str, most_bytes: int) -> bytes:
        """The last ``most_bytes`` of a raw file that others may be writing just now."""
        ...

    def open_volume(self, pool: str, name: str, offset: int = 0) -> VolumeReader:
        """To read its file from that byte on, as fast as somebody takes it."""
        ...

    def clone_volume(
        self, pool: str, name: str, spec: VolumeSpec, progress: Progress
    ) -> VolumeFacts:
        """A copy of ``name`` as ``spec`` (virStorageVolCreateXMLFrom): full and independent, or,
        where ``spec`` names the backing volume that ``name`` itself stands on, only what ``name``
        holds beyond it. Blocks on the host; progress comes from watching the new volume's
        allocation. When ``progress`` raises, the copy is stopped as far as the host can and its
        file is gone."""
        ...

    def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None: ...
    def delete_volume(self, pool: str, name: str) -> None:
        """Idempotent: a volume that is not there is no error."""
        ...

    # --- networks -----------------------------------------------------------------------------
    def list_networks(self) -> list[NetworkFacts]: ...
    def ensure_network(self, name: str = "default") -> None:
        """Started and autostarted; NoSuchNetwork when the host has none of that name."""
        ...

    def leases(self, networks: Iterable[str] | None = None) -> list[Lease]: ...


class VolumeReader(Protocol):
    """A volume's file that is being read."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        ...

    def read(self) -> bytes:
        """The next piece, up to 1 MiB; nothing at the end. Blocks, at most a minute."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class ConsoleLine(Protocol):
    """An open serial line."""

    def write(self, data: bytes) -> None:
        """Blocks until the host has taken it: OperationTimeout after seconds, HostUnreachable."""
        ...

    def close(self) -> None:
        """Idempotent; neither callback is called afterwards."""
        ...


class EventSource(Protocol):
    """One host's event feed, for the watcher. Callbacks only enqueue."""

    def subscribe(self, callback: Callable[[HostEvent], None]) -> None: ...
    def watch_channel(self, uuid: UUID, channel: str) -> None:
        """Deliver what the guest writes to this virtio channel as ``ChannelData``. Idempotent."""
        ...

    def unwatch_channel(self, uuid: UUID, channel: str) -> None: ...
    def close(self) -> None: ...
