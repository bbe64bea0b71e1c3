"""The fake's serial lines, and the logs that virtlogd would keep of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from uuid import UUID

from hosts.virt.errors import ConsoleInUse, HostUnreachable, WrongState
from hosts.virt.fake.state import FakeState, FakeVolume, counted
from hosts.virt.protocol import Ended, Receive
from hosts.virt.spec import VolumeFacts

if TYPE_CHECKING:
    from hosts.virt.fake.state import FakeDomain


class FakeLine:
    """``typed`` is what was written to the guest."""

    def __init__(self, fake: FakeConsoles, uuid: UUID, receive: Receive, ended: Ended) -> None:
        self.typed = bytearray()
        self.receive = receive
        self._fake = fake
        self._uuid = uuid
        self._ended = ended
        self._open = True

    def write(self, data: bytes) -> None:
        self._fake.before("write_console")
        if not self._open:
            raise HostUnreachable("the line is closed")
        self.typed += data

    def close(self) -> None:
        self._open = False
        if self._fake.lines.get(self._uuid) is self:
            del self._fake.lines[self._uuid]

    def break_off(self) -> None:
        """As when the guest stops or libvirtd does."""
        if self._open:
            self.close()
            self._ended()


class FakeConsoles(FakeState):
    @counted
    def open_console(self, uuid: UUID, receive: Receive, ended: Ended) -> FakeLine:
        domain = self._domains.get(uuid)
        if domain is None or not domain.on:
            raise WrongState("Requested operation is not valid: domain is not running")
        if uuid in self.lines:
            raise ConsoleInUse("Active console session exists for this domain")
        line = self.lines[uuid] = FakeLine(self, uuid, receive, ended)
        return line

    def write_console(self) -> None:
        """What ``FakeLine.write`` is called when it is made to fail or to wait."""

    def guest_says(self, uuid: UUID, data: bytes) -> None:
        """The guest writes to its serial line: into the log, and to whoever reads it."""
        domain = self._domains[uuid]
        self.log_serial(domain, data)
        line = self.lines.get(uuid)
        if line is not None:
            line.receive(data)

    def log_serial(self, domain: FakeDomain, data: bytes) -> None:
        """virtlogd makes the file when the guest starts."""
        log = domain.spec.serial_log
        if log is None or log.pool not in self._pools:
            return
        pool = self._pools[log.pool]
        with self._lock:
            volume = pool.volumes.get(log.name)
            if volume is None:
                facts = VolumeFacts(
                    pool=log.pool,
                    name=log.name,
                    path=f"{pool.path}/{log.name}",
                    format="raw",
                    capacity_bytes=0,
                    allocation_bytes=0,
                )
                volume = pool.volumes[log.name] = FakeVolume(facts)
            volume.content += data
            size = len(volume.content)
            volume.facts = dataclasses.replace(
                volume.facts, capacity_bytes=size, allocation_bytes=size
            )
