"""The fake's settings: live or from the next start on, as libvirt does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from uuid import UUID

from hosts.virt.errors import GuestKeepsDevice
from hosts.virt.fake.snapshots import FakeSnapshots
from hosts.virt.fake.state import FakeDomain, counted
from hosts.virt.spec import DiskSpec, DomainEvent, DomainSpec, NicSpec


class FakeHardware(FakeSnapshots):
    @counted
    def set_vcpus(self, uuid: UUID, vcpus: int) -> bool:
        domain = self._domain(uuid)
        now = domain.spec
        live = not domain.on or now.vcpus <= vcpus <= max(now.vcpus, now.vcpus_max or 0)
        self._store(domain, live=live, vcpus=vcpus)
        return live

    @counted
    def set_memory(self, uuid: UUID, memory_mib: int) -> bool:
        domain = self._domain(uuid)
        live = not domain.on or memory_mib == domain.spec.memory_mib
        self._store(domain, live=live, memory_mib=memory_mib)
        return live

    @counted
    def set_boot_order(self, uuid: UUID, devices: Sequence[str]) -> bool:
        domain = self._domain(uuid)
        order = {name: number for number, name in enumerate(devices, start=1)}
        spec = domain.next_spec or domain.spec
        ordered = dataclasses.replace(
            spec,
            disks=tuple(dataclasses.replace(d, boot_order=order.get(d.target)) for d in spec.disks),
            cdroms=tuple(
                dataclasses.replace(d, boot_order=order.get(d.target)) for d in spec.cdroms
            ),
            nics=tuple(dataclasses.replace(n, boot_order=order.get(n.mac)) for n in spec.nics),
        )
        with self._lock:
            if domain.on:
                domain.next_spec = ordered
            else:
                domain.spec = ordered
        return not domain.on

    @counted
    def grow_disk(self, uuid: UUID, target: str, capacity_bytes: int) -> None:
        domain = self._running(uuid)
        volume = self._disk(domain, target)
        with self._lock:
            volume.facts = dataclasses.replace(volume.facts, capacity_bytes=capacity_bytes)

    @counted
    def attach_disk(self, uuid: UUID, disk: DiskSpec) -> None:
        domain = self._domain(uuid)
        self._volume(disk.pool, disk.volume)
        if all(other.target != disk.target for other in domain.spec.disks):
            self._edit(domain, lambda spec: {"disks": (*spec.disks, disk)})
        self._told(domain, "added")

    @counted
    def detach_disk(self, uuid: UUID, target: str) -> None:
        domain = self._domain(uuid)
        self._let_go(domain)
        self._edit(
            domain, lambda spec: {"disks": tuple(d for d in spec.disks if d.target != target)}
        )
        self._told(domain, "removed")

    @counted
    def attach_nic(self, uuid: UUID, nic: NicSpec) -> None:
        domain = self._domain(uuid)
        if all(other.mac != nic.mac for other in domain.spec.nics):
            self._edit(domain, lambda spec: {"nics": (*spec.nics, nic)})
        self._told(domain, "added")

    @counted
    def detach_nic(self, uuid: UUID, mac: str) -> None:
        domain = self._domain(uuid)
        self._let_go(domain)
        self._edit(domain, lambda spec: {"nics": tuple(n for n in spec.nics if n.mac != mac)})
        self._told(domain, "removed")

    @counted
    def change_nic(self, uuid: UUID, mac: str, *, network: str | None, link_up: bool) -> None:
        domain = self._domain(uuid)

        def changed(nic: NicSpec) -> NicSpec:
            if nic.mac != mac:
                return nic
            return dataclasses.replace(nic, network=network or nic.network, link_up=link_up)

        self._edit(domain, lambda spec: {"nics": tuple(changed(nic) for nic in spec.nics)})

    @counted
    def load_cdrom(self, uuid: UUID, target: str, pool: str, volume: str) -> None:
        domain = self._domain(uuid)
        self._volume(pool, volume)
        self._edit(
            domain,
            lambda spec: {
                "cdroms": tuple(
                    dataclasses.replace(c, pool=pool, volume=volume) if c.target == target else c
                    for c in spec.cdroms
                )
            },
        )

    # --- private ------------------------------------------------------------------------------

    def _store(self, domain: FakeDomain, *, live: bool, **values: int) -> None:
        with self._lock:
            if live:
                domain.spec = dataclasses.replace(domain.spec, **values)  # type: ignore[arg-type]
            base = domain.next_spec or domain.spec
            stored = dataclasses.replace(base, **values)  # type: ignore[arg-type]
            domain.next_spec = stored if domain.on else None

    def _edit(self, domain: FakeDomain, change: Callable[[DomainSpec], dict[str, object]]) -> None:
        """Of what runs and of what is stored."""
        with self._lock:
            for name in ("spec", "next_spec"):
                spec = getattr(domain, name)
                if spec is not None:
                    setattr(domain, name, dataclasses.replace(spec, **change(spec)))

    def _let_go(self, domain: FakeDomain) -> None:
        if domain.on and domain.spec.uuid in self.keeps_devices:
            raise GuestKeepsDevice("the guest does not let go of the device")

    def _told(self, domain: FakeDomain, detail: str) -> None:
        if domain.on:
            spec = domain.spec
            self.emit(DomainEvent(kind="device", uuid=spec.uuid, name=spec.name, detail=detail))
