"""What happens inside and around the fake's guests, at a test's word."""

from __future__ import annotations

import json
import time
from uuid import UUID

from hosts.virt.fake.agent import FakeAgent
from hosts.virt.spec import ChannelData, DomainEvent, DomainState, Lease
from hosts.virt.xml.devices import FIRSTBOOT_CHANNEL

LEASE_S = 3600
UNREAD_LIMIT_BYTES = 64 * 1024


class FakeGuest(FakeAgent):
    def guest_boots(
        self, uuid: UUID, *, address: str | None = None, hostname: str = "", report: bool = True
    ) -> None:
        """It takes an address for each NIC and, with ``report``, says that cloud-init is done."""
        self._boot(uuid, address=address, hostname=hostname, report=report)

    def guest_reports(self, uuid: UUID, status: str = "done", detail: str = "") -> None:
        """The line of the first boot (see contracts: vms.seeds)."""
        line = json.dumps({"kvmweb": 1, "status": status, "detail": detail}) + "\n"
        self.guest_writes(uuid, FIRSTBOOT_CHANNEL, line.encode())

    def guest_writes(self, uuid: UUID, channel: str, data: bytes) -> None:
        """Bytes on a virtio channel; kept until somebody watches it."""
        self._running(uuid)
        key = (uuid, channel)
        with self._lock:
            watching = [source for source in self._sources if key in source.watched]
            if not watching:
                unread = self._unread.get(key, b"") + data
                self._unread[key] = unread[:UNREAD_LIMIT_BYTES]
        for source in watching:
            source.deliver(ChannelData(uuid=uuid, channel=channel, data=data))

    def guest_powers_off(self, uuid: UUID) -> None:
        """As ``poweroff`` inside the guest does."""
        self._stop(self._running(uuid), DomainState.SHUTOFF, "shutdown")

    def guest_crashes(self, uuid: UUID) -> None:
        self._stop(self._running(uuid), DomainState.CRASHED, "crashed")

    def guest_agent(self, uuid: UUID, *, connected: bool) -> None:
        domain = self._running(uuid)
        (self.agents.add if connected else self.agents.discard)(uuid)
        detail = "connected" if connected else "disconnected"
        self.emit(DomainEvent(kind="agent", uuid=uuid, name=domain.spec.name, detail=detail))

    def vanish(self, uuid: UUID) -> None:
        """As ``virsh destroy`` and ``virsh undefine`` by somebody else."""
        with self._lock:
            domain = self._domain(uuid)
            domain.persistent = False
        if domain.on:
            self._stop(domain, DomainState.SHUTOFF, "destroyed")
        with self._lock:
            self._domains.pop(uuid, None)
        self._lifecycle(domain, "undefined")

    def leave(self, uuid: UUID, *, undefined: bool = False) -> None:
        """As a live migration ends where it began; ``undefined`` with ``--undefinesource``."""
        domain = self._running(uuid)
        with self._lock:
            domain.persistent = not undefined
        self._stop(domain, DomainState.SHUTOFF, "migrated")

    def arrive(self, uuid: UUID) -> None:
        """As it ends where it led to; the domain is defined here."""
        domain = self._domain(uuid)
        with self._lock:
            domain.state, domain.reason = DomainState.RUNNING, "migrated"
            domain.id, self._next_id = self._next_id, self._next_id + 1
            domain.screen_port = 5900 + domain.id if domain.screen_by_port else None
        self._lifecycle(domain, "resumed")

    def _boot(
        self, uuid: UUID, *, address: str | None = None, hostname: str = "", report: bool = True
    ) -> None:
        domain = self._running(uuid)
        with self._lock:
            for nic in domain.spec.nics:
                if nic.network is None or nic.bridge:
                    continue
                mac = nic.mac.lower()
                self._leases = [lease for lease in self._leases if lease.mac != mac]
                self._leases.append(
                    Lease(
                        network=nic.network,
                        mac=mac,
                        address=address or self._free_address(),
                        hostname=hostname or domain.spec.name,
                        expires_at=time.time() + LEASE_S,
                    )
                )
        if report and domain.spec.firstboot_channel:
            self.guest_reports(uuid)

    def _free_address(self) -> str:
        taken = {lease.address for lease in self._leases}
        numbers = (f"192.168.122.{last}" for last in range(2, 255))
        return next(address for address in numbers if address not in taken)
