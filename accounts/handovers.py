"""What a person has in a team goes to somebody else when they leave it: nothing is orphaned.

``accounts`` imports no other app, so those that keep things with an owner and a team register
here. A handover runs in the transaction that ends the membership, with the team's row locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from accounts.models import Team, User


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """``user`` leaves ``team``; ``heir``, a member who may own machines, takes over."""

    actor: User
    user: User
    team: Team
    heir: User


class Handover(Protocol):
    def count(self, *, user_ids: list[int], team: Team) -> dict[int, int]:
        """Person -> how many things they have in the team; one query."""

    def move(self, leaving: Leaving) -> int:
        """Give them all to the heir; how many they were."""


_handovers: list[Handover] = []


def register(handover: Handover) -> None:
    if handover not in _handovers:
        _handovers.append(handover)


def counts(team: Team, user_ids: list[int]) -> dict[int, int]:
    found = dict.fromkeys(user_ids, 0)
    for handover in _handovers:
        for user_id, count in handover.count(user_ids=user_ids, team=team).items():
            found[user_id] += count
    return found


def move(leaving: Leaving) -> int:
    return sum(handover.move(leaving) for handover in _handovers)
