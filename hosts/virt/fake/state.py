"""What the fake keeps, and how each of its calls can be made to fail, wait and be counted."""

from __future__ import annotations

import functools
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import NAMESPACE_DNS, UUID, uuid5

from hosts.virt.errors import HostUnreachable
from hosts.virt.spec import (
    ConnectionClosed,
    DomainEvent,
    DomainSpec,
    DomainState,
    HostEvent,
    Lease,
    NetworkFacts,
    SnapshotFacts,
    VolumeFacts,
)

if TYPE_CHECKING:
    from hosts.virt.fake.console import FakeLine
    from hosts.virt.fake.events import FakeEventSource

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="FakeState")
GIB = 1024**3


@dataclass
class FakeVolume:
    facts: VolumeFacts
    content: bytes = b""


@dataclass
class FakeSnapshot:
    facts: SnapshotFacts
    spec: DomainSpec
    disks: dict[str, FakeVolume]  # target -> as it was


@dataclass
class FakeDomain:
    spec: DomainSpec
    state: DomainState = DomainState.SHUTOFF
    reason: str = "unknown"
    persistent: bool = True
    id: int | None = None
    boots: int = 0
    snapshots: dict[str, FakeSnapshot] = field(default_factory=dict)
    current_snapshot: str = ""
    saved: bool = False
    next_spec: DomainSpec | None = None  # stored, from the next start on
    screen_by_port: bool = False  # stored
    screen_port: int | None = None  # of this boot
    backup: list[tuple[FakeVolume, FakeVolume]] | None = None  # (target, source as it was)

    @property
    def on(self) -> bool:
        return self.state in (DomainState.RUNNING, DomainState.PAUSED)


@dataclass
class FakePool:
    name: str
    path: str
    capacity_bytes: int
    active: bool = True
    autostart: bool = True
    volumes: dict[str, FakeVolume] = field(default_factory=dict)

    @property
    def allocation_bytes(self) -> int:
        return sum(volume.facts.allocation_bytes for volume in self.volumes.values())


def counted(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Count the call, wait as long as told, fail if told, else do it."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.before(method.__name__)
        return method(self, *args, **kwargs)

    return call


class FakeState:
    """``pool_bytes``: the size of each pool. ``domain_types``: what it says it can run."""

    def __init__(
        self,
        name: str = "fake",
        *,
        cpus: int = 8,
        memory_mib: int = 32768,
        pool_bytes: int = 100 * GIB,
        domain_types: tuple[str, ...] = ("qemu",),
    ) -> None:
        self.name = name
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.pool_bytes = pool_bytes
        self.domain_types = domain_types
        self.calls: Counter[str] = Counter()
        self.boots_by_itself = False
        self.ignores_power_button: set[UUID] = set()
        self.keeps_devices: set[UUID] = set()
        self.keys_sent: list[tuple[UUID, tuple[int, ...]]] = []
        self.vnc_peers: dict[UUID, list[socket.socket]] = {}
        self.lines: dict[UUID, FakeLine] = {}
        self.agents: set[UUID] = set()
        self.has_backups = True
        self.agent_says: dict[UUID, Mapping[str, Any]] = {}  # as virDomainGetGuestInfo gives it
        self.guest_passwords: list[tuple[UUID, str, str]] = []
        self.trimmed: list[UUID] = []
        self.frozen: set[UUID] = set()
        self._lock = threading.RLock()
        self._faults: dict[str, list[BaseException]] = defaultdict(list)
        self._latency_s: dict[str, float] = {}
        self._awake = threading.Event()
        self._unplugged = False
        self._domains: dict[UUID, FakeDomain] = {}
        self._next_id = 1
        self._pools = {"default": FakePool("default", "/var/lib/libvirt/images", pool_bytes)}
        self._networks = {"default": _nat_network("default", active=True)}
        self._leases: list[Lease] = []
        self._sources: list[FakeEventSource] = []
        self._unread: dict[tuple[UUID, str], bytes] = {}

    # --- faults -------------------------------------------------------------------------------

    def fail_next(self, method: str, error: BaseException, *, times: int = 1) -> None:
        """The next ``times`` calls of ``method`` raise ``error`` and do nothing."""
        if not hasattr(self, method):
            raise AttributeError(method)
        with self._lock:
            self._faults[method].extend([error] * times)

    def delay(self, method: str, seconds: float) -> None:
        """Every call of ``method`` takes that long from now on (clones: between two reports)."""
        self._latency_s[method] = seconds

    def unplug(self) -> None:
        """The host is unreachable from now on; guests go on."""
        self._unplugged = True
        self.emit(ConnectionClosed(reason="keepalive"), even_unplugged=True)

    def plug(self) -> None:
        self._unplugged = False

    def before(self, method: str) -> None:
        with self._lock:
            self.calls[method] += 1
            faults = self._faults[method]
            fault = faults.pop(0) if faults else None
        self.wait(method)
        if self._unplugged and method != "close":
            raise HostUnreachable("unplugged")
        if fault is not None:
            raise fault

    def wait(self, method: str) -> None:
        seconds = self._latency_s.get(method, 0)
        if seconds:
            self._awake.wait(seconds)

    # --- events -------------------------------------------------------------------------------

    def emit(self, event: HostEvent, *, even_unplugged: bool = False) -> None:
        """To every source, in the calling thread: receivers only enqueue."""
        if self._unplugged and not even_unplugged:
            return
        for source in list(self._sources):
            source.deliver(event)

    def _lifecycle(self, domain: FakeDomain, detail: str) -> None:
        spec = domain.spec
        self.emit(DomainEvent(kind="lifecycle", uuid=spec.uuid, name=spec.name, detail=detail))


def _nat_network(name: str, *, active: bool) -> NetworkFacts:
    return NetworkFacts(
        name=name,
        uuid=uuid5(NAMESPACE_DNS, f"{name}.network.fake"),
        kind="nat",
        bridge="virbr0",
        cidr="192.168.122.0/24",
        active=active,
        autostart=active,
    )
