"""CPU and memory in use, from the counters of two readings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hosts.virt.spec import DomainState
from hosts.watch.listeners import DomainSample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from hosts.virt.spec import DomainFacts


@dataclass
class Sampler:
    """Remembers one reading of each running domain."""

    _before: dict[UUID, tuple[float, int]] = field(default_factory=dict)  # at (s), CPU time (ns)

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
                    uuid=facts.uuid, cpu_percent=percent, memory_used_mib=facts.memory_used_mib
                )
            )
        self._before = now
        return found


def _percent(before: tuple[float, int], now: tuple[float, int], vcpus: int) -> float | None:
    elapsed_s, cpu_ns = now[0] - before[0], now[1] - before[1]
    if elapsed_s <= 0 or cpu_ns < 0:  # started anew in between
        return None
    return round(min(100.0, 100 * cpu_ns / 1e9 / elapsed_s / max(1, vcpus)), 1)
