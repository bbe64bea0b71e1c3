"""Nudges to open pages: ``{"topic": "vm", "id": ...}`` means "this changed, fetch it again".

A nudge carries no content, so permissions, language and theme are settled by the view that
answers the fetch. Publishing never blocks and never raises: with Redis away nudges are dropped
(once said in the log) and pages poll.

A thread of each process sends them with one event loop and one connection, because
``async_to_sync(group_send)`` makes a new loop and a new connection for every call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.db import transaction

from accounts.revocations import Revocation
from jobs.models import Job

logger = logging.getLogger(__name__)

ADMINS = "admins"
QUEUE_LIMIT = 10_000  # nudges that wait for a slow Redis; more are dropped
BATCH = 500
SEND_TIMEOUT_S = 2.0
FLUSH_AT_EXIT_S = 1.0
# Nudges gather this long: what changes twice is told once, and the thread that caused them gets
# on with its work first.
GATHER_S = 0.01

Message = dict[str, Any]


def user_group(user_id: int) -> str:
    return f"user.{user_id}"


def team_group(team_id: int) -> str:
    return f"team.{team_id}"


def machine_group(uuid: object) -> str:
    """Those with whom the machine, or its console, is shared."""
    return f"machine.{uuid}"


def machine_groups(
    owner_id: int | None, team_id: int | None, uuid: object | None = None
) -> set[str]:
    """Who sees a machine."""
    groups = {ADMINS}
    if uuid is not None:
        groups.add(machine_group(uuid))
    if owner_id is not None:
        groups.add(user_group(owner_id))
    if team_id is not None:
        groups.add(team_group(team_id))
    return groups


def publish(topic: str, id: object, *, groups: Iterable[str]) -> None:  # noqa: A002 - the wire's word
    message: Message = {"type": "nudge", "topic": topic, "id": str(id)}
    for group in groups:
        _send(group, message)


def publish_on_commit(topic: str, id: object, *, groups: Iterable[str]) -> None:  # noqa: A002
    groups = set(groups)
    transaction.on_commit(lambda: publish(topic, id, groups=groups))


def publish_job(job: Job) -> None:
    """Nudge all who see the job, and the things it works on: their rows show its progress."""
    vm = job.vm
    if vm is None:
        groups = machine_groups(job.actor_id, job.team_id)
    else:
        # A job about a machine follows the machine: who asked for it may have lost it since.
        groups = machine_groups(vm.owner_id, vm.team_id, vm.uuid)
        publish_on_commit("vm", vm.uuid, groups=groups)
    if job.image_id is not None:
        publish_on_commit("image", job.image_id, groups=groups)
    publish_on_commit("job", job.pk, groups=groups)


def kick(user_id: int, *, session_key: str = "") -> None:
    """End the person's live connections within a second (or that session's only): sign-out,
    deactivation, lost rights. A browser that is still signed in connects again by itself, with
    the rights of then."""
    _send(user_group(user_id), {"type": "kick", "session": session_key})


def regroup(machine: UUID, user_id: int | None, team_id: int | None) -> None:
    """A machine was shared with them, or is no longer: their pages hear the right ones from now
    on, and look at once."""
    group = user_group(user_id) if user_id is not None else team_group(team_id or 0)
    _send(group, {"type": "regroup"})
    publish("vm", machine, groups={group})


def end_revoked(revocation: Revocation) -> None:
    if revocation.machine is not None:
        regroup(revocation.machine, revocation.user_id, None)
    elif revocation.token_id is None:  # tokens open no live connection
        kick(revocation.user_id, session_key=revocation.session_key)


def ring(user_id: int) -> None:
    """The person's bell counts anew."""
    publish("notice", user_id, groups={user_group(user_id)})


def _send(group: str, message: Message) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    if isinstance(layer, InMemoryChannelLayer):
        # Lives in one process and one loop (tests, a site without Redis).
        _send_here(layer, group, message)
        return
    _sender().put(group, message)


_tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references


def _send_here(layer: InMemoryChannelLayer, group: str, message: Message) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        async_to_sync(layer.group_send)(group, message)
    else:
        task = loop.create_task(layer.group_send(group, message))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


class _Sender:
    """The thread that sends. Made again in every child of a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._waiting: queue.Queue[tuple[str, Message]] = queue.Queue(QUEUE_LIMIT)
        self._away = False
        self._thread = threading.Thread(target=self._run, name="live-sender", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def put(self, group: str, message: Message) -> None:
        try:
            self._waiting.put_nowait((group, message))
        except queue.Full:
            self._say_away("its queue is full")

    def flush(self) -> None:
        """Give what waits a moment to leave, at the end of a short process."""
        if os.getpid() != self.pid:
            return
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(
                lambda: self._waiting.unfinished_tasks == 0, FLUSH_AT_EXIT_S
            )

    def _run(self) -> None:
        # The loop runs only while something is sent: a thread that waits inside it would keep
        # the interpreter from ending.
        loop = asyncio.new_event_loop()
        while True:
            taken = [self._waiting.get()]
            time.sleep(GATHER_S)
            with contextlib.suppress(queue.Empty):
                while len(taken) < BATCH:
                    taken.append(self._waiting.get_nowait())
            loop.run_until_complete(self._send_batch(taken))
            for _nudge in taken:
                self._waiting.task_done()

    async def _send_batch(self, taken: list[tuple[str, Message]]) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        # The same nudge twice says nothing more.
        for group, message in {(group, str(m)): (group, m) for group, m in taken}.values():
            try:
                await asyncio.wait_for(layer.group_send(group, message), SEND_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - a nudge is never worth a failure
                self._say_away(error)
                return
            if self._away:
                logger.info("live updates are sent again")
            self._away = False

    def _say_away(self, reason: object) -> None:
        if not self._away:
            logger.warning("live updates are not sent, pages poll: %s", reason)
        self._away = True


_lock = threading.Lock()
_current: _Sender | None = None


def _sender() -> _Sender:
    global _current  # noqa: PLW0603 - one thread for the process
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _Sender()
        return _current


def _after_fork() -> None:
    # The parent may have held it at the fork.
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
