"""The fake as a host: facts, checks, networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from uuid import NAMESPACE_DNS, uuid5

from hosts.virt import exposure
from hosts.virt.errors import NoSuchNetwork
from hosts.virt.fake.state import FakeState, counted
from hosts.virt.spec import (
    Check,
    HostFacts,
    HostSample,
    Lease,
    NetworkEvent,
    NetworkFacts,
)


class FakeHost(FakeState):
    """``probe_result`` and ``check_results`` are what it answers; set them as a test needs."""

    probe_result: Check | None = None
    check_results: list[Check] | None = None
    tpm = True
    exposed_domains: dict[str, list[str]] = {}

    @counted
    def ping(self) -> None:
        return None

    @counted
    def close(self) -> None:
        """Nothing to close; its memory stays, as a host's does."""

    @counted
    def facts(self) -> HostFacts:
        return HostFacts(
            hostname=self.name,
            host_uuid=uuid5(NAMESPACE_DNS, f"{self.name}.fake"),
            arch="x86_64",
            cpu_model="EPYC",
            cpus=self.cpus,
            memory_mib=self.memory_mib,
            libvirt_version="9.0.0",
            qemu_version="7.2.0",
            domain_types=self.domain_types,
            cpu_virt_flag="kvm" in self.domain_types,
            firmwares=("bios", "efi", "secure"),
            machines=("q35", "pc"),
            tpm=self.tpm,
            videos=("vga", "virtio", "bochs"),
            cpu_models=("EPYC", "qemu64"),
        )

    @counted
    def sample(self) -> HostSample:
        with self._lock:
            used = sum(domain.spec.memory_mib for domain in self._domains.values() if domain.on)
        return HostSample(
            cpu_percent=10.0,
            memory_total_mib=self.memory_mib,
            memory_free_mib=max(self.memory_mib - used, 0),
        )

    @counted
    def checks(self) -> list[Check]:
        if self.check_results is not None:
            return list(self.check_results)
        kvm = "pass" if "kvm" in self.domain_types else "fail"
        return [
            Check(key="cpu_virtualization", result=kvm),
            Check(key="kvm_listed", result=kvm),
            Check(key="tun", result="pass"),
            exposure.check(self.exposed_domains),
        ]

    @counted
    def exposure(self) -> Check:
        return exposure.check(self.exposed_domains)

    @counted
    def probe_acceleration(self, *, timeout_s: float = 20) -> Check:  # noqa: ARG002 - protocol
        if self.probe_result is not None:
            return self.probe_result
        if "kvm" in self.domain_types:
            return Check(key="acceleration_probe", result="pass", params={"seconds": "0.5"})
        return Check(key="acceleration_probe", result="fail", params={"reason": "no_cpu_flag"})

    # --- networks -----------------------------------------------------------------------------

    @counted
    def list_networks(self) -> list[NetworkFacts]:
        with self._lock:
            return list(self._networks.values())

    @counted
    def ensure_network(self, name: str = "default") -> None:
        with self._lock:
            network = self._networks.get(name)
            if network is None:
                raise NoSuchNetwork(name)
            self._networks[name] = dataclasses.replace(network, active=True, autostart=True)
        if not network.active:
            self.emit(NetworkEvent(network=name, detail="started"))

    @counted
    def leases(self, networks: Iterable[str] | None = None) -> list[Lease]:
        wanted = None if networks is None else set(networks)
        with self._lock:
            return [lease for lease in self._leases if wanted is None or lease.network in wanted]
