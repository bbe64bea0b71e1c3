"""Limits and what is allocated of them.

Check and allocation happen in one transaction under a lock: on PostgreSQL the team's row, on
SQLite the writing transaction itself (``transaction_mode=IMMEDIATE``). Whoever changes a limit or
a grant of the team or of a member in it takes the same lock. Usage is always the SUM of the
allocations: there are no counters that could drift.

What a member may use is bound twice: by the team's limit and, where the member has one, by their
own. The limit of either is its own, else the one above it, plus the grants that are live.
"""

from accounts.quotas.allocations import (
    ACTIVE,
    HELD,
    RELEASING,
    Ask,
    activate,
    activate_subject,
    allocate,
    allocate_for,
    allocate_parts,
    count,
    effective_limits,
    held_by,
    overview,
    preview,
    release,
    release_subject,
    releasing,
    settle,
    team_limits,
    transfer,
    usage,
)
from accounts.quotas.amounts import (
    IN_GIB,
    IN_MIB,
    LARGEST,
    UNLIMITED,
    amount_text,
    limit_text,
    resource_label,
    unit,
)
from accounts.quotas.limits import own_limits, require_may_limit, set_limit, set_limits
from accounts.quotas.locks import lock_team, lock_teams
from accounts.quotas.standing import Impact, Limit

__all__ = [
    "ACTIVE",
    "HELD",
    "IN_GIB",
    "IN_MIB",
    "LARGEST",
    "RELEASING",
    "UNLIMITED",
    "Ask",
    "Impact",
    "Limit",
    "activate",
    "activate_subject",
    "allocate",
    "allocate_for",
    "allocate_parts",
    "amount_text",
    "count",
    "effective_limits",
    "held_by",
    "limit_text",
    "lock_team",
    "lock_teams",
    "overview",
    "own_limits",
    "preview",
    "release",
    "release_subject",
    "releasing",
    "require_may_limit",
    "resource_label",
    "set_limit",
    "set_limits",
    "settle",
    "team_limits",
    "transfer",
    "unit",
    "usage",
]
