"""CPU and memory in use, from the counters of two readings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hosts.virt.spec import DomainState
from hosts.watch.listeners import Activity, DomainSample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from hosts.virt.spec import DomainFacts


ACTIVITY_WINDOW_S = 600.0


@dataclass
class Sampler:
    """Remembers one reading of each running domain, and the first of its present window."""

    _before: dict[UUID, tuple[float, int]] = field(default_factory=dict)  # at (s), CPU time (ns)
    # at (s), CPU time (ns), bytes sent
    _windows: dict[UUID, tuple[float, int, int]] = field(default_factory=dict)

    def samples(self, domains: Sequence[DomainFacts], at: float) -> list[DomainSample]:
        """``at``: monotonic seconds of this reading. Domains that are off have no sample."""
        found: list[DomainSample] = []
        now: dict[UUID, tuple[float, int]] = {}
        for facts in domains:
            if facts.state not in (DomainState.RUNNING, DomainState.PAUSED):
                continue
            percent = None
            if facts.cpu_time_ns is not None:
                now[facts.uuid] = (at, facts.cpu_time_ns)
                if facts.uuid in self._before:
                    percent = _percent(self._before[facts.uuid], now[facts.uuid], facts.vcpus)
            found.append(
                DomainSample(
                    uuid=facts.uuid,
                    cpu_percent=percent,
                    memory_used_mib=facts.memory_used_mib,
                    activity=self._activity(facts, at),
                )
            )
        self._before = now
        self._windows = {uuid: self._windows[uuid] for uuid in now if uuid in self._windows}
        return found

    def _activity(self, facts: DomainFacts, at: float) -> Activity | None:
        """The averages of a window that ends now."""
        if facts.cpu_time_ns is None:
            return None
        began = self._windows.get(facts.uuid)
        sent = facts.sent_bytes or 0
        if began is not None and at - began[0] < ACTIVITY_WINDOW_S:
            return None
        self._windows[facts.uuid] = (at, facts.cpu_time_ns, sent)
        if began is None or facts.cpu_time_ns < began[1] or sent < began[2]:  # started anew
            return None
        percent = _percent((began[0], began[1]), (at, facts.cpu_time_ns), facts.vcpus)
        return Activity(
            cpu_percent=percent or 0.0, sent_bytes_s=(sent - began[2]) / (at - began[0])
        )


def _percent(before: tuple[float, int], now: tuple[float, int], vcpus: int) -> float | None:
    elapsed_s, cpu_ns = now[0] - before[0], now[1] - before[1]
    if elapsed_s <= 0 or cpu_ns < 0:  # started anew in between
        return None
    return round(min(100.0, 100 * cpu_ns / 1e9 / elapsed_s / max(1, vcpus)), 1)
