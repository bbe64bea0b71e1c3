"""Starts and ends a dispatcher per host, as hosts come and go while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import close_old_connections, connection
from django.db.utils import Error as DatabaseTrouble
from redis.exceptions import RedisError

from accounts import pulse
from hosts import connections
from hosts.models import Host
from hosts.watch.dispatcher import HostWatch, Timing

if TYPE_CHECKING:
    from hosts.virt.protocol import EventSource, Hypervisor

log = logging.getLogger(__name__)

ROUND_S = 2.0  # how soon a host that was added is watched
GOODBYE_S = 5.0  # for all threads together, at the end


@dataclass(frozen=True, kw_only=True)
class _Watched:
    identity: tuple[object, ...]
    watch: HostWatch


class Supervisor:
    """``names``: only these hosts (a shard); empty: all."""

    def __init__(
        self,
        *,
        names: Collection[str] = (),
        opener: Callable[[Host], tuple[Hypervisor, EventSource]] = connections.open_watched,
        timing: Timing | None = None,
    ) -> None:
        self._names = frozenset(names)
        self._opener = opener
        self._timing = timing
        self._stopping = threading.Event()
        self._watched: dict[int, _Watched] = {}

    def stop(self) -> None:
        """From a signal handler or another thread."""
        self._stopping.set()

    def run(self) -> None:
        """Until ``stop``."""
        try:
            while not self._stopping.is_set():
                self.look_round()
                _beat()
                self._stopping.wait(ROUND_S)
        finally:
            self._end_all()
            connection.close()

    def look_round(self) -> None:
        """Hosts that were added, changed or removed; threads that died."""
        try:
            close_old_connections()
            hosts = Host.objects.all()
            if self._names:
                hosts = hosts.filter(name__in=self._names)
            wanted = {host.pk: host for host in hosts}
        except DatabaseTrouble as error:
            log.warning("the database does not answer: %s", error)
            connection.close()
            return
        for pk in list(self._watched):
            known = self._watched[pk]
            host = wanted.get(pk)
            if host is None or connections.identity(host) != known.identity:
                log.info("no longer watching %s as it was", known.watch.host)
            elif not known.watch.is_alive:
                log.error("the watch on %s had died, starting it again", host)
            else:
                continue
            known.watch.stop()
            del self._watched[pk]
        for pk, host in wanted.items():
            if pk not in self._watched:
                self._start(host)

    def _start(self, host: Host) -> None:
        log.info("watching %s", host)
        watch = HostWatch(host, opener=self._opener, timing=self._timing)
        self._watched[host.pk] = _Watched(identity=connections.identity(host), watch=watch)
        watch.start()

    def _end_all(self) -> None:
        watches = [known.watch for known in self._watched.values()]
        for watch in watches:
            watch.stop()
        for watch in watches:
            watch.join(GOODBYE_S / len(watches))


def _beat() -> None:
    """For ``/readyz``. Without Redis the watcher goes on."""
    try:
        pulse.beat("watch")
    except (RedisError, OSError) as error:
        log.debug("no heartbeat, the cache does not answer: %s", error)
