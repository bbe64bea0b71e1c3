"""One hypervisor connection per process and host, behind a circuit breaker.

A libvirt connection must not be used after a fork, so every process opens its own, when it first
needs one. A host that does not answer is left alone for a while: after ``FAILURES_TO_OPEN``
unreachable calls in a row the breaker opens, and every caller gets ``HostUnreachable`` at once
instead of waiting for a time-out; after ``OPEN_FOR_S`` one call is let through to see.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from hosts.virt.errors import HostUnreachable

if TYPE_CHECKING:
    from hosts.models import Host
    from hosts.virt.protocol import EventSource, Hypervisor
    from hosts.virt.sshforward import Forwards, Way

FAILURES_TO_OPEN = 2
OPEN_FOR_S = 10.0
# A connection that was idle this long is asked whether it still lives before it is used: a daemon
# that was restarted meanwhile has broken it, and nobody would know until the next call.
IDLE_BEFORE_PING_S = 1.0

Identity = tuple[object, ...]


class _WithEvents(Protocol):
    """Both implementations have it; only the watcher asks for it."""

    def events(self) -> EventSource: ...


class Breaker:
    """Counts unreachable calls of one host. Thread-safe; ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_again_at = 0.0

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._failures >= FAILURES_TO_OPEN and self._clock() < self._closed_again_at

    def before_call(self) -> None:
        """Raises HostUnreachable while open; half open, lets one caller through."""
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return
            if self._clock() < self._closed_again_at:
                raise HostUnreachable("left alone for a while after it did not answer")
            # This caller is the probe; the others keep waiting until it has come back.
            self._closed_again_at = self._clock() + OPEN_FOR_S

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._closed_again_at = self._clock() + OPEN_FOR_S


class _Guarded:
    """Stands for one host's hypervisor: opens it when first called, and drops it when it breaks."""

    def __init__(self, opener: Callable[[], Hypervisor], breaker: Breaker) -> None:
        self._opener = opener
        self._breaker = breaker
        self._lock = threading.Lock()
        self._real: Hypervisor | None = None
        self._used_at = 0.0

    def _connected(self) -> Hypervisor:
        with self._lock:
            real, idle_s = self._real, time.monotonic() - self._used_at
            self._used_at = time.monotonic()
        if real is not None and idle_s > IDLE_BEFORE_PING_S:
            try:
                real.ping()
            except HostUnreachable:
                self._drop(real)
        with self._lock:
            if self._real is None:
                self._real = self._opener()
            return self._real

    def _drop(self, broken: Hypervisor | None) -> None:
        with self._lock:
            if self._real is not broken:
                return  # somebody has already opened a new one
            self._real = None
        if broken is not None:
            _close_quietly(broken)

    def close(self) -> None:
        self._drop(self._real)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._breaker.before_call()
            real: Hypervisor | None = None
            try:
                real = self._connected()
                result = getattr(real, name)(*args, **kwargs)
            except HostUnreachable:
                self._drop(real)
                self._breaker.failed()
                raise
            except BaseException:
                # The host has answered, whatever it said.
                self._breaker.succeeded()
                raise
            self._breaker.succeeded()
            return result

        # Found without __getattr__ from the next call on.
        self.__dict__[name] = call
        return call


def _close_quietly(hypervisor: Hypervisor) -> None:
    try:
        hypervisor.close()
    except HostUnreachable:
        return  # it was broken already


_lock = threading.Lock()
_owner_pid = os.getpid()
_open: dict[int, tuple[Identity, _Guarded]] = {}
_fakes: dict[str, Hypervisor] | None = None


def identity(host: Host) -> Identity:
    """What a connection depends on; when it changes, it is another connection."""
    return (
        host.transport,
        host.socket_path,
        host.address,
        host.port,
        host.username,
        host.ssh_host_key,
    )


def hypervisor(host: Host) -> Hypervisor:
    """The host's hypervisor for this process. Opens nothing yet, and never raises."""
    if _fakes is not None:
        return _fakes[host.name]
    global _owner_pid  # noqa: PLW0603 - the cache belongs to one process
    with _lock:
        if _owner_pid != os.getpid():
            # After a fork the parent's connections are the parent's: forget, do not close.
            _open.clear()
            _owner_pid = os.getpid()
        wanted = identity(host)
        known = _open.get(host.pk)
        if known is not None and known[0] == wanted:
            return cast("Hypervisor", known[1])
        guarded = _Guarded(lambda: open_new(host), Breaker())
        _open[host.pk] = (wanted, guarded)
    if known is not None:
        known[1].close()
    return cast("Hypervisor", guarded)


def open_new(host: Host) -> Hypervisor:
    """A connection of its own, without a breaker (the watcher keeps one per host)."""
    if _fakes is not None:
        return _fakes[host.name]
    from hosts.virt.client import LibvirtHypervisor

    return LibvirtHypervisor(uri_of(host))


def open_watched(host: Host) -> tuple[Hypervisor, EventSource]:
    """For the watcher: a connection of its own and its event feed. Both connect when first used."""
    hypervisor = open_new(host)
    events = cast("_WithEvents", hypervisor).events()
    return hypervisor, events


def uri_of(host: Host) -> str:
    from hosts.virt import uri

    return uri.build(
        transport=host.transport,
        socket_path=host.socket_path,
        address=host.address,
        port=host.port,
        username=host.username,
        ssh_host_key=host.ssh_host_key,
    )


def authority_of(host: Host) -> str:
    """``user@address:port`` of a host behind SSH or TLS, as in its URI."""
    from hosts.virt import uri

    return uri.authority(host.address, host.port, host.username)


def ssh_way(host: Host) -> Way:
    """How ``hosts.virt.sshforward`` reaches a host of transport SSH."""
    from hosts.virt.sshforward import Way

    return Way(
        address=host.address,
        port=host.port,
        username=host.username,
        ssh_host_key=host.ssh_host_key,
    )


def screen_ways(host: Host) -> Forwards | None:
    """What a host behind SSH forwards to this site. None for any other, and for a fake. Blocks for
    some seconds at most. HostUnreachable."""
    if _fakes is not None or host.transport != "ssh":
        return None
    from hosts.virt import sshforward

    return asyncio.run(sshforward.probe(ssh_way(host)))


def close_all() -> None:
    """Close what this process has open (at its end)."""
    with _lock:
        mine = list(_open.values()) if _owner_pid == os.getpid() else []
        _open.clear()
    for _, guarded in mine:
        guarded.close()


@contextmanager
def use_fake(fakes: Mapping[str, Hypervisor]) -> Iterator[None]:
    """Within the block, hosts are these fakes, by name. For tests."""
    global _fakes  # noqa: PLW0603
    before = _fakes
    _fakes = dict(fakes)
    try:
        yield
    finally:
        _fakes = before
