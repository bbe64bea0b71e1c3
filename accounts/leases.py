"""How long machines last, as far as requests need it: ``vms.leases`` registers who keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from accounts.models import Team, User


class Machine(Protocol):
    """What a request for more time needs of a machine."""

    uuid: UUID
    name: str
    owner_id: int

    @property
    def team(self) -> Team: ...


@dataclass(frozen=True, kw_only=True)
class Time:
    """A machine's time now."""

    ends_at: datetime | None  # None: without end
    latest: datetime | None  # to where it can be extended without a request; None: for ever


class Keeper(Protocol):
    def time_of(self, machine: UUID) -> Time | None:
        """None: there is no such machine (any more)."""
        ...

    def extend(self, machine: UUID, team_id: int, until: datetime, *, actor: User) -> None:
        """In the transaction of the decision, which holds the team's lock. ``Conflict`` where the
        machine is gone or belongs to another team."""
        ...


_keepers: list[Keeper] = []


def register(keeper: Keeper) -> None:
    if keeper not in _keepers:
        _keepers.append(keeper)


def keeper() -> Keeper:
    """LookupError: no app keeps machines' time."""
    return _keepers[-1]
