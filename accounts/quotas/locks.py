"""Whoever takes quota, or changes what may be taken, holds the team's row.

Rows are locked in the order team, machine, job. The lock lets others point at the team meanwhile
(``NO KEY``): an allocation that a host's word writes, with the machine held, does not wait for who
grows in the team and waits for that machine.
"""

from __future__ import annotations

from django.db import connection, transaction

from accounts.models import Team

# Raw: all who grow in the team wait while this is built and its answer read. On SQLite the writing
# transaction is the lock.
_SELECT = f"SELECT id FROM {Team._meta.db_table} WHERE id = %s"  # noqa: S608 - our own table
_LOCK_SQL = {"postgresql": f"{_SELECT} FOR NO KEY UPDATE", "sqlite": _SELECT}


def lock_team(team: Team | int) -> Team:
    """Lock the team's row to the end of the transaction: for its quota, and for names that are
    unique in it."""
    must_be_atomic()
    pk = team.pk if isinstance(team, Team) else team
    return Team.objects.select_for_update(no_key=True).get(pk=pk)


def lock_teams(*teams: int) -> None:
    """Lock without reading them, several always in the same order: two transfers that cross do
    not block each other."""
    must_be_atomic()
    for pk in sorted(set(teams)):
        with connection.cursor() as cursor:
            cursor.execute(_LOCK_SQL[connection.vendor], [pk])
            if cursor.fetchone() is None:
                raise Team.DoesNotExist(pk)


def must_be_atomic() -> None:
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("quota locks are worth nothing outside a transaction")
