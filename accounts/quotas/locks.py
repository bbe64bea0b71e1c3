"""Whoever takes quota, or changes what may be taken, holds the team's row."""

from __future__ import annotations

from django.db import transaction

from accounts.models import Team


def lock_team(team: Team | int) -> Team:
    """Lock the team's row to the end of the transaction: for its quota, and for names that are
    unique in it."""
    must_be_atomic()
    pk = team.pk if isinstance(team, Team) else team
    return Team.objects.select_for_update().get(pk=pk)


def lock_teams(*teams: int) -> None:
    """Several at once, always in the same order: two transfers that cross do not block each
    other."""
    for pk in sorted(set(teams)):
        lock_team(pk)


def must_be_atomic() -> None:
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("quota locks are worth nothing outside a transaction")
