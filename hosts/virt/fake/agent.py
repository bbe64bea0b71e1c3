"""The fake's guest agents: silent unless a test lets them speak (``guest_agent``)."""

from __future__ import annotations

from uuid import UUID

from hosts.virt import guestagent
from hosts.virt.errors import AgentRefused, AgentSilent
from hosts.virt.fake.hardware import FakeHardware
from hosts.virt.fake.state import counted
from hosts.virt.protocol import Progress
from hosts.virt.spec import GuestFacts

FILE_SYSTEMS = 1


class FakeAgent(FakeHardware):
    @counted
    def guest_facts(self, uuid: UUID) -> GuestFacts:
        self._agent(uuid)
        if uuid in self.frozen:
            raise AgentRefused("the command is not allowed")
        return guestagent.facts(self.agent_says.get(uuid, {"hostname": "guest"}))

    @counted
    def set_guest_password(self, uuid: UUID, user: str, password_hash: str) -> None:
        self._agent(uuid)
        self.guest_passwords.append((uuid, user, password_hash))

    @counted
    def trim_guest(self, uuid: UUID, progress: Progress) -> None:
        self._agent(uuid)
        progress(0, 0)
        self.trimmed.append(uuid)

    @counted
    def freeze_guest(self, uuid: UUID) -> int:
        self._agent(uuid)
        if uuid in self.frozen:
            raise AgentRefused("the command is not allowed")
        self.frozen.add(uuid)
        return FILE_SYSTEMS

    @counted
    def thaw_guest(self, uuid: UUID) -> int:
        self._agent(uuid)
        thawed = FILE_SYSTEMS if uuid in self.frozen else 0
        self.frozen.discard(uuid)
        return thawed

    def _agent(self, uuid: UUID) -> None:
        self._running(uuid)
        if uuid not in self.agents:
            raise AgentSilent("Guest agent is not connected")
