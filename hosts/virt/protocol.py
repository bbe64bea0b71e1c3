"""``Hypervisor``: all that the product asks of one host. libvirt's and the fake's contract.

Every method may raise ``hosts.virt.errors.VirtError`` and nothing else. Methods block; none is
called inside a database transaction or from a page. Names are libvirt's. An operation that finds
its work already done says so by its documented error (``AlreadyExists``, ``NoSuchDomain``...), or
does nothing where it is documented as idempotent: job steps rely on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Protocol
from uuid import UUID

from hosts.virt.spec import (
    Check,
    DomainFacts,
    DomainSpec,
    HostEvent,
    HostFacts,
    HostSample,
    Lease,
    NetworkFacts,
    PoolFacts,
    VolumeFacts,
    VolumeSpec,
)

Progress = Callable[[int, int], None]  # (bytes done, bytes in all); may raise to stop


class Hypervisor(Protocol):
    # --- host -------------------------------------------------------------------------------
    def ping(self) -> None: ...
    def facts(self) -> HostFacts: ...
    def sample(self) -> HostSample: ...
    def checks(self) -> list[Check]: ...
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

    def shutdown(self, uuid: UUID) -> None:
        """Ask by ACPI (and by the agent where one answers). Returns at once."""
        ...

    def force_off(self, uuid: UUID, *, graceful: bool = False) -> None:
        """virDomainDestroy. Idempotent: a stopped domain stays stopped."""
        ...

    def reboot(self, uuid: UUID) -> None: ...
    def reset(self, uuid: UUID) -> None: ...
    def suspend(self, uuid: UUID) -> None: ...
    def resume(self, uuid: UUID) -> None: ...
    def eject_cdrom(self, uuid: UUID, target: str) -> None:
        """Empty the tray, live and in the stored definition. Idempotent."""
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
    def clone_volume(
        self, pool: str, name: str, spec: VolumeSpec, progress: Progress
    ) -> VolumeFacts:
        """A full, independent copy of ``name`` as ``spec`` (virStorageVolCreateXMLFrom), which
        blocks on the host; progress comes from watching the new volume's allocation. When
        ``progress`` raises, the copy is stopped as far as the host can and its file is gone."""
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


class EventSource(Protocol):
    """One host's event feed, for the watcher. Callbacks only enqueue."""

    def subscribe(self, callback: Callable[[HostEvent], None]) -> None: ...
    def watch_channel(self, uuid: UUID, channel: str) -> None:
        """Deliver what the guest writes to this virtio channel as ``ChannelData``. Idempotent."""
        ...

    def unwatch_channel(self, uuid: UUID, channel: str) -> None: ...
    def close(self) -> None: ...
