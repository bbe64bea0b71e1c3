"""What libvirt asks of the agent inside a guest.

It may be slow, hang or lie. Every call goes over a connection of its own, so that a guest which
holds it up holds up nothing else; libvirt itself is told how long to wait for each answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import libvirt

from hosts.virt import guestagent
from hosts.virt.client.snapshots import SnapshotCalls
from hosts.virt.connection import Connection
from hosts.virt.errors import UnknownVirtError
from hosts.virt.protocol import Progress
from hosts.virt.spec import GuestFacts

T = TypeVar("T")

# Of one answer. Facts are seven questions, of which an honest agent answers each in milliseconds.
ANSWER_S = 5
FACTS_S = 15.0
# Everything that the guest has not written yet is written first.
FREEZE_ANSWER_S, FREEZE_S = 30, 45.0
TRIM_ANSWER_S = 900


class AgentCalls(SnapshotCalls):
    def guest_facts(self, uuid: UUID) -> GuestFacts:
        return guestagent.facts(self._ask(uuid, _info, ANSWER_S, FACTS_S))

    def set_guest_password(self, uuid: UUID, user: str, password_hash: str) -> None:
        crypted = libvirt.VIR_DOMAIN_PASSWORD_ENCRYPTED
        self._ask(
            uuid, lambda dom: dom.setUserPassword(user, password_hash, crypted), ANSWER_S, FACTS_S
        )

    def trim_guest(self, uuid: UUID, progress: Progress) -> None:
        def trim(dom: Any) -> None:
            _wait_at_most(dom, TRIM_ANSWER_S)
            dom.fSTrim(None, 0, 0)

        self._long(uuid, trim, progress)

    def freeze_guest(self, uuid: UUID) -> int:
        return self._ask(uuid, lambda dom: int(dom.fsFreeze()), FREEZE_ANSWER_S, FREEZE_S)

    def thaw_guest(self, uuid: UUID) -> int:
        return self._ask(uuid, lambda dom: int(dom.fsThaw()), FREEZE_ANSWER_S, FREEZE_S)

    # --- private ------------------------------------------------------------------------------

    def _ask(self, uuid: UUID, question: Callable[[Any], T], answer_s: int, timeout_s: float) -> T:
        def ask(conn: Any) -> T:
            dom = conn.lookupByUUIDString(str(uuid))
            _wait_at_most(dom, answer_s)
            return question(dom)

        own = Connection(self.connection.uri)
        try:
            return own.call(ask, timeout_s)
        finally:
            own.close()


def _wait_at_most(dom: Any, seconds: int) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # a driver without it; ours bounds as well
        dom.agentSetResponseTimeout(seconds, 0)


def _info(dom: Any) -> dict[str, Any]:
    """All that this agent can tell: with 0, libvirt leaves out what it does not know."""
    try:
        return dict(dom.guestInfo(0, 0))
    except ValueError as error:  # the binding makes str of it: text that is no UTF-8
        raise UnknownVirtError("the guest agent's answer is no text") from error
