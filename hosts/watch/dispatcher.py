"""One host's watcher: a thread with an inbox.

libvirt's callbacks only put into the inbox. The thread reads the named domain again and tells the
listeners; from time to time it compares with one bulk list, so that whatever an event failed to
say is found out. A host that does not answer is marked so and tried again, with growing pauses;
its machines keep the state that was last seen.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import close_old_connections, connection
from django.db.utils import Error as DatabaseTrouble

from hosts import services
from hosts.models import Host
from hosts.virt.errors import HostUnreachable, NoSuchDomain, VirtError
from hosts.virt.spec import (
    ChannelData,
    ConnectionClosed,
    DomainEvent,
    DomainFacts,
    DomainState,
    HostEvent,
    NetworkEvent,
)
from hosts.watch.listeners import listeners
from hosts.watch.sampling import Sampler

if TYPE_CHECKING:
    from hosts.virt.protocol import EventSource, Hypervisor
    from hosts.watch.listeners import Listener

log = logging.getLogger(__name__)

# Events after which nothing that we show can have changed.
IGNORED_EVENTS = frozenset({"balloon", "memory_failure"})


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds."""

    sync: float = 60.0  # compare all rows with one bulk list
    sample: float = 5.0  # CPU and memory, by the same list
    inventory: float = 60.0  # pools' space, networks
    leases_waiting: float = 1.5  # while somebody waits for an address
    leases_idle: float = 30.0
    channels: float = 2.0
    exposure: float = 600.0  # what listens on the network; at once on connecting
    exposure_after_start: float = 5.0
    # A guest that has powered itself off may be restarting: what its host says so much later
    # counts. Only then: whatever virsh does to a domain shows at once.
    stop_settles: float = 0.7
    move_settles: float = 5.5  # a domain that has left for another host is looked at once more
    absent_again: float = 0.7  # a domain that is gone is looked for once more after this
    retry: float = 1.0  # after a call that failed, or a database that did not answer
    backoff_first: float = 1.0
    backoff_last: float = 15.0
    # A sample may take this part of the time: big hosts are asked less often.
    sample_share: float = 0.05


class _Stop:
    """Put into the inbox to end the thread."""


Item = HostEvent | _Stop
Opener = Callable[[Host], "tuple[Hypervisor, EventSource]"]


@dataclass
class _Session:
    """What is known while one connection lasts."""

    hypervisor: Hypervisor
    source: EventSource
    sampler: Sampler = field(default_factory=Sampler)
    states: dict[UUID, DomainState] = field(default_factory=dict)
    channels: set[tuple[UUID, str]] = field(default_factory=set)
    due: dict[str, float] = field(default_factory=dict)  # task -> monotonic time
    recheck: dict[UUID, float] = field(default_factory=dict)

    def bring_forward(self, task: str, *, within_s: float) -> None:
        self.due[task] = min(self.due[task], time.monotonic() + within_s)


class HostWatch:
    """``start`` it, ``stop`` it; a dead one is made anew by the supervisor."""

    def __init__(self, host: Host, *, opener: Opener, timing: Timing | None = None) -> None:
        self.host = host
        self._opener = opener
        self._timing = timing or Timing()
        self._inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{host.name}", daemon=True)
        self._tasks: dict[str, Callable[[_Session], float]] = {
            # Before the rest: a machine that is taken over needs the host's pools.
            "inventory": self._inventory,
            "sync": self._sync,
            "sample": self._sample,
            "leases": self._leases,
            "channels": self._channels,
            "exposure": self._exposure,
        }

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks it to end; does not wait."""
        self._stopping.set()
        self._inbox.put(_Stop())

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = self._timing.backoff_first
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._session()
                # A connection that held for a while was a good one: begin again with short pauses.
                if time.monotonic() - began > self._timing.backoff_last:
                    pause_s = self._timing.backoff_first
                if self._stopping.wait(pause_s * random.uniform(0.8, 1.2)):  # noqa: S311
                    break
                pause_s = min(pause_s * 2, self._timing.backoff_last)
        finally:
            connection.close()

    def _session(self) -> None:
        """From connecting to losing the connection."""
        hypervisor: Hypervisor | None = None
        source: EventSource | None = None
        # A new inbox each time: what the last connection still had to say is stale.
        self._inbox = queue.SimpleQueue()
        try:
            hypervisor, source = self._opener(self.host)
            source.subscribe(self._inbox.put)
            session = _Session(hypervisor=hypervisor, source=source)
            self._serve(session)
        except VirtError as error:
            # Also when it answers, but refuses what we need: its page says why.
            self._lost(error)
        finally:
            self._close(source, hypervisor)

    def _serve(self, session: _Session) -> None:
        now = time.monotonic()
        session.due = dict.fromkeys(self._tasks, now)
        while not self._stopping.is_set():
            first = self._next(session)
            if first is not None:
                self._handle(session, first)
            self._run_due(session)

    def _next(self, session: _Session) -> Item | None:
        soonest = min([*session.due.values(), *session.recheck.values()])
        try:
            return self._inbox.get(timeout=max(0.0, soonest - time.monotonic()))
        except queue.Empty:
            return None

    def _handle(self, session: _Session, first: Item) -> None:
        """The item and all that wait behind it: several events of one domain need one look."""
        events: dict[UUID, DomainEvent] = {}
        item: Item | None = first
        while item is not None:
            match item:
                case _Stop():
                    return
                case ConnectionClosed():
                    raise HostUnreachable(f"connection closed: {item.reason}")
                case ChannelData():
                    self._hear(session, item)
                case NetworkEvent():
                    session.bring_forward("inventory", within_s=0)
                    session.bring_forward("leases", within_s=0)
                case DomainEvent():
                    if item.kind == "reboot":
                        # Not folded into another event: the timeline shows it.
                        self._look(session, item.uuid, item)
                    elif item.kind not in IGNORED_EVENTS:
                        events[item.uuid] = item
            item = _get_nowait(self._inbox)
        for uuid, event in events.items():
            self._look(session, uuid, event)

    def _run_due(self, session: _Session) -> None:
        now = time.monotonic()
        for uuid in [uuid for uuid, at in session.recheck.items() if at <= now]:
            del session.recheck[uuid]
            self._look(session, uuid, None, settled=True)
        for name, task in self._tasks.items():
            if session.due[name] <= now:
                session.due[name] = time.monotonic() + self._attempt(name, task, session)

    def _attempt(self, name: str, task: Callable[[_Session], float], session: _Session) -> float:
        """Runs one of the timed tasks; seconds until the next. HostUnreachable goes through."""
        close_old_connections()
        try:
            return task(session)
        except HostUnreachable:
            raise
        except VirtError as error:
            log.warning("%s: %s failed: %s [%s]", self.host, name, error.raw, error.ref)
        except DatabaseTrouble as error:
            self._database_trouble(session, error)
        return self._timing.retry

    # --- one domain -------------------------------------------------------------------------

    def _look(
        self, session: _Session, uuid: UUID, event: DomainEvent | None, *, settled: bool = False
    ) -> None:
        """Reads the domain and tells what it is now."""
        try:
            facts = session.hypervisor.domain(uuid)
        except NoSuchDomain:
            self._absent(session, uuid, event, settled=settled)
            return
        except HostUnreachable:
            raise
        except VirtError as error:
            log.warning("%s: reading %s failed: %s [%s]", self.host, uuid, error.raw, error.ref)
            session.recheck[uuid] = time.monotonic() + self._timing.retry
            return
        if not settled and self._may_be_restarting(session, facts):
            session.recheck[uuid] = time.monotonic() + self._timing.stop_settles
            return
        session.recheck.pop(uuid, None)
        if not settled and facts.state is DomainState.SHUTOFF and facts.reason == "migrated":
            session.recheck[uuid] = time.monotonic() + self._timing.move_settles
        if facts.state is DomainState.RUNNING and session.states.get(uuid) is not facts.state:
            session.bring_forward("exposure", within_s=self._timing.exposure_after_start)
        session.states[uuid] = facts.state
        self._tell_domain(session, uuid, facts, event)
        if facts.state is DomainState.RUNNING:
            # Whoever waits for its channel or its address waits from now on.
            session.bring_forward("channels", within_s=0)
            session.bring_forward("leases", within_s=self._timing.leases_waiting)

    def _absent(
        self, session: _Session, uuid: UUID, event: DomainEvent | None, *, settled: bool
    ) -> None:
        session.states.pop(uuid, None)
        self._tell_domain(session, uuid, None, event)
        if not settled:
            session.recheck[uuid] = time.monotonic() + self._timing.absent_again

    def _may_be_restarting(self, session: _Session, facts: DomainFacts) -> bool:
        was_on = session.states.get(facts.uuid) in (DomainState.RUNNING, DomainState.PAUSED)
        return was_on and facts.state is DomainState.SHUTOFF and facts.reason == "shutdown"

    def _tell_domain(
        self, session: _Session, uuid: UUID, facts: DomainFacts | None, event: DomainEvent | None
    ) -> None:
        told = self._tell(
            session, "domain", lambda one: one.on_domain(self.host, uuid, facts, event)
        )
        if not told:
            session.recheck[uuid] = time.monotonic() + self._timing.retry

    # --- timed tasks: each returns the seconds until it is due again ------------------------------

    def _sync(self, session: _Session) -> float:
        domains = session.hypervisor.list_domains()
        session.states = {facts.uuid: facts.state for facts in domains}
        if services.mark_reach(self.host, up=True):
            log.info("%s is reachable, %d domains", self.host, len(domains))
            self._tell(session, "reach", lambda one: one.on_reach(self.host, up=True))
        told = self._tell(
            session, "sync", lambda one: one.on_sync(self.host, domains, session.hypervisor)
        )
        return self._timing.sync if told else self._timing.retry

    def _sample(self, session: _Session) -> float:
        began = time.monotonic()
        domains = session.hypervisor.list_domains()
        took_s = time.monotonic() - began
        samples = session.sampler.samples(domains, at=began)
        for uuid in _changed(session.states, domains) - session.recheck.keys():
            self._look(session, uuid, None)
        self._tell(session, "samples", lambda one: one.on_samples(self.host, samples))
        services.note_sample(self.host, session.hypervisor.sample())
        return max(self._timing.sample, took_s / self._timing.sample_share)

    def _inventory(self, session: _Session) -> float:
        pools = session.hypervisor.list_pools()
        networks = session.hypervisor.list_networks()
        services.note_storage_and_networks(self.host, pools, networks)
        return self._timing.inventory

    def _exposure(self, session: _Session) -> float:
        services.note_exposure(self.host, session.hypervisor.exposure())
        return self._timing.exposure

    def _leases(self, session: _Session) -> float:
        wanted = any(listener.leases_wanted(self.host) for listener in listeners())
        leases = session.hypervisor.leases()
        self._tell(session, "leases", lambda one: one.on_leases(self.host, leases))
        return self._timing.leases_waiting if wanted else self._timing.leases_idle

    def _channels(self, session: _Session) -> float:
        wanted: set[tuple[UUID, str]] = set()
        for listener in listeners():
            wanted |= listener.channels_wanted(self.host)
        for uuid, channel in session.channels - wanted:
            session.source.unwatch_channel(uuid, channel)
        session.channels &= wanted
        for uuid, channel in wanted:
            # Again each time: a guest that was reset has a new stream.
            self._listen(session, uuid, channel)
        return self._timing.channels

    def _listen(self, session: _Session, uuid: UUID, channel: str) -> None:
        try:
            session.source.watch_channel(uuid, channel)
        except HostUnreachable:
            raise
        except VirtError as error:
            log.debug("%s: no channel %s of %s: %s", self.host, channel, uuid, error.raw)
        else:
            session.channels.add((uuid, channel))

    def _hear(self, session: _Session, data: ChannelData) -> None:
        self._tell(session, "channel", lambda one: one.on_channel(self.host, data))

    # --- the rest -----------------------------------------------------------------------------

    def _tell(self, session: _Session, what: str, call: Callable[[Listener], None]) -> bool:
        """Calls every listener; False when one could not take it, so that it must be told again.
        HostUnreachable goes through."""
        close_old_connections()
        told = [self._tell_one(session, what, call, one) for one in listeners()]
        return all(told)

    def _tell_one(
        self, session: _Session, what: str, call: Callable[[Listener], None], listener: Listener
    ) -> bool:
        try:
            call(listener)
        except HostUnreachable:
            raise
        except VirtError as error:
            log.warning("%s: %s: %s [%s]", self.host, what, error.raw, error.ref)
            return False
        except DatabaseTrouble as error:
            self._database_trouble(session, error)
            return False
        except Exception:
            # One machine that cannot be handled must not blind us for the others.
            log.exception("%s: a listener failed on %s", self.host, what)
        return True

    def _database_trouble(self, session: _Session, error: Exception) -> None:
        """The rows missed something: compare everything as soon as the database answers."""
        log.warning("%s: the database does not answer: %s", self.host, error)
        connection.close()
        session.bring_forward("sync", within_s=self._timing.retry)

    def _lost(self, error: VirtError) -> None:
        log.warning("%s does not answer: %s [%s]", self.host, error.raw, error.ref)
        try:
            close_old_connections()
            news = services.mark_reach(self.host, up=False, code=error.code, ref=error.ref)
            if news:
                for listener in listeners():
                    listener.on_reach(self.host, up=False)
        except DatabaseTrouble as trouble:
            log.warning("%s: the database does not answer either: %s", self.host, trouble)
            connection.close()

    def _close(self, source: EventSource | None, hypervisor: Hypervisor | None) -> None:
        for end in (source, hypervisor):
            if end is None:
                continue
            try:
                end.close()
            except VirtError as error:
                log.debug("%s: closing: %s", self.host, error.raw)


def _changed(known: dict[UUID, DomainState], domains: Sequence[DomainFacts]) -> set[UUID]:
    """Domains whose state is not what the events have told, that came, or that are gone."""
    now = {facts.uuid: facts.state for facts in domains}
    return {uuid for uuid in known.keys() | now.keys() if known.get(uuid) is not now.get(uuid)}


def _get_nowait(inbox: queue.SimpleQueue[Item]) -> Item | None:
    try:
        return inbox.get_nowait()
    except queue.Empty:
        return None
