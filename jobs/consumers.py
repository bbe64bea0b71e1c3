"""``/ws/live``: nudges of what a person may see, to their open pages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from accounts import policy, sessions, sharing
from accounts.models import User
from jobs import live, origins

logger = logging.getLogger(__name__)

# A nudge leaves at once; those that come while it is written, or within this time, leave together.
COALESCE_S = 0.05
# Different things waiting for one slow socket. Beyond it the connection is ended: the page
# connects again and fetches everything once.
BACKLOG = 500
SEND_TIMEOUT_S = 30.0  # a page that does not read for so long is gone
RECHECK_S = 60.0  # in case a revocation was lost with Redis

SIGNED_OUT = 4401
TOO_SLOW = 1013  # RFC 6455 registry: try again later


class LiveConsumer(AsyncWebsocketConsumer):
    """Handlers only note what to send: a handler that awaits a slow socket would keep ``kick``
    from being delivered. Two tasks do the sending and the looking after."""

    async def connect(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._groups: set[str] = set()
        self._waiting: dict[tuple[str, str], None] = {}  # an ordered set
        self._wake = asyncio.Event()
        scope: Any = self.scope
        user = scope.get("user")
        self._session_key: str = getattr(scope.get("session"), "session_key", None) or ""
        groups = await _groups_of(user.pk) if isinstance(user, User) else set()
        # Somebody's page on somebody's else site, nobody signed in, or not active any more.
        if not groups or not origins.is_same_site(scope):
            await self.close()
            return
        self._user_id = user.pk
        await self._join(groups)
        await self.accept()
        self._tasks = [
            asyncio.create_task(self._send_waiting()),
            asyncio.create_task(self._recheck()),
        ]

    async def disconnect(self, code: int) -> None:  # noqa: ARG002 - Channels' signature
        for task in self._tasks:
            task.cancel()
        await self._join(set())

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **_kwargs: Any
    ) -> None:
        """Pages say nothing here; what a socket sends anyway is dropped unread."""

    # --- from the channel layer -----------------------------------------------------------
    async def nudge(self, event: dict[str, Any]) -> None:
        self._waiting[(event["topic"], event["id"])] = None
        self._wake.set()

    async def kick(self, event: dict[str, Any]) -> None:
        only = event.get("session")
        if only and self._session_key and self._session_key != only:
            return
        self._later(self._end(SIGNED_OUT))

    async def regroup(self, _event: dict[str, Any]) -> None:
        self._later(self._rejoin())

    # --- tasks of our own -----------------------------------------------------------------
    async def _send_waiting(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, {}
            if len(waiting) > BACKLOG:
                await self._end(TOO_SLOW)
                return
            try:
                for topic, subject in waiting:
                    message = json.dumps({"topic": topic, "id": subject})
                    await asyncio.wait_for(self.send(text_data=message), SEND_TIMEOUT_S)
            except (asyncio.TimeoutError, OSError):
                await self._end(TOO_SLOW)
                return
            await asyncio.sleep(COALESCE_S)

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            if not await self._rejoin():
                return

    async def _rejoin(self) -> bool:
        """Be in the groups of now; False: signed out."""
        groups = await _groups_of(self._user_id, session_key=self._session_key)
        if not groups:
            await self._end(SIGNED_OUT)
            return False
        await self._join(groups)
        return True

    async def _end(self, code: int) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # it may be closed already
            await self.close(code)

    def _later(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _join(self, wanted: set[str]) -> None:
        """Be in exactly these groups; with Redis away pages poll."""
        try:
            for group in self._groups - wanted:
                await self.channel_layer.group_discard(group, self.channel_name)
            for group in wanted - self._groups:
                await self.channel_layer.group_add(group, self.channel_name)
        except Exception as error:  # noqa: BLE001 - the layer's client has errors of its own
            logger.warning("live: the channel layer does not answer: %s", error)
            return
        self._groups = wanted


@database_sync_to_async
def _groups_of(user_id: int, *, session_key: str = "") -> set[str]:
    """Empty: this person, or this session of theirs, is not signed in any more."""
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or (session_key and not sessions.is_live(session_key, user)):
        return set()
    groups = {live.user_group(user.pk)}
    groups |= {live.team_group(pk) for pk in user.memberships.values_list("team_id", flat=True)}
    others = {*sharing.machines_shared_with(user), *policy.granted_machines(user.pk)}
    groups |= {live.machine_group(uuid) for uuid in others}
    return groups | {live.ADMINS} if user.is_admin else groups
