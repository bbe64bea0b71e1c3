"""What the hosts can carry, told by an app above this one: for those who decide over requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accounts.models import Resource


@dataclass(frozen=True, kw_only=True)
class Load:
    """Of all hosts that take machines, in the resource's unit."""

    committed: int  # to the machines that are
    capacity: int  # that may be committed

    def percent_with(self, more: int) -> int:
        return round(100 * (self.committed + more) / self.capacity) if self.capacity else 0

    def is_too_much(self, more: int) -> bool:
        return self.committed + more > self.capacity


Teller = Callable[[], Mapping[Resource, Load]]
_tellers: list[Teller] = []


def register(teller: Teller) -> Teller:
    if teller not in _tellers:
        _tellers.append(teller)
    return teller


def now() -> dict[Resource, Load]:
    """By resource; those that no host limits (a number of machines) are left out."""
    found: dict[Resource, Load] = {}
    for teller in _tellers:
        found.update(teller())
    return found
