"""Access that ended, told to whoever holds something open for it.

``accounts`` imports no other app, so consoles and live sockets register here and close what the
revocation covers. A callback runs after the commit; one that fails does not stop the others.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """What ended for ``user_id``; the narrower fields, when set, say that only that part did."""

    user_id: int
    reason: str  # signed_out | deactivated | token_revoked | left_team | role_changed | unshared
    session_key: str = ""
    token_id: int | None = None
    team_id: int | None = None
    machine: UUID | None = None


Callback = Callable[[Revocation], None]
_callbacks: list[Callback] = []


def on_access_revoked(callback: Callback) -> Callback:
    """Register; registering twice counts once. Usable as a decorator."""
    if callback not in _callbacks:
        _callbacks.append(callback)
    return callback


def announce(revocation: Revocation) -> None:
    for callback in tuple(_callbacks):
        try:
            callback(revocation)
        # The others must still close what they hold, also when the person has gone meanwhile and
        # the server cancels their request (a CancelledError is no Exception).
        except (Exception, CancelledError):  # noqa: PERF203
            logger.exception("closing after %s failed in %r", revocation.reason, callback)


def announce_on_commit(revocation: Revocation) -> None:
    transaction.on_commit(lambda: announce(revocation))
