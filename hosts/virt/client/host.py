"""The host itself: what it is, how busy it is, what its checks say."""

from __future__ import annotations

from typing import Any

import libvirt

from hosts.virt import capabilities, checks, exposure, probe
from hosts.virt.client.base import Calls
from hosts.virt.connection import Connection
from hosts.virt.spec import Check, HostFacts, HostSample

KIB_PER_MIB = 1024


class HostCalls(Calls):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._cpu_before: dict[str, int] | None = None

    def facts(self) -> HostFacts:
        return self.connection.call(read_facts)

    def sample(self) -> HostSample:
        """CPU use since this object's sample before (None at the first), and memory now."""
        cpu, memory = self.connection.call(
            lambda conn: (
                conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS),
                conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS),
            )
        )
        before, self._cpu_before = self._cpu_before, cpu
        free = sum(int(memory.get(key, 0)) for key in ("free", "buffers", "cached"))
        return HostSample(
            cpu_percent=cpu_percent(before, cpu),
            memory_total_mib=int(memory.get("total", 0)) // KIB_PER_MIB,
            memory_free_mib=free // KIB_PER_MIB,
        )

    def checks(self) -> list[Check]:
        facts = self.facts()
        local = None if self.connection.remote else checks.run_virt_host_validate()
        support = self.connection.call(lambda conn: guest_support(conn, facts.domain_types))
        return [*checks.assess(facts, support, local), self.exposure()]

    def exposure(self) -> Check:
        return exposure.check(self.connection.call(_exposed))

    def probe_acceleration(self, *, timeout_s: float = 20) -> Check:
        return probe.acceleration(self.connection, self.facts(), timeout_s=timeout_s)


def _exposed(conn: Any) -> dict[str, list[str]]:
    """By name, for every domain that runs."""
    running = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return {dom.name(): _exposed_by(dom) for dom in running}


def _exposed_by(dom: Any) -> list[str]:
    try:
        return exposure.exposed(dom.XMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return []  # gone in between
        raise


def cpu_percent(before: dict[str, int] | None, now: dict[str, int]) -> float | None:
    """Share of all CPUs' time that was not idle (values are nanoseconds since boot)."""
    if before is None:
        return None
    spent = {key: now[key] - before.get(key, 0) for key in ("user", "kernel", "idle", "iowait")}
    total = sum(spent.values())
    if total <= 0:
        return None
    return round(100.0 * (spent["user"] + spent["kernel"]) / total, 1)


def read_facts(conn: Any) -> HostFacts:
    text = conn.getCapabilities()
    memory = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    flag = capabilities.virt_flag(capabilities.host_cpu_xml(text), _baseline(conn, text))
    return capabilities.host_facts(
        text,
        hostname=conn.getHostname(),
        cpus=int(conn.getInfo()[2]),
        memory_mib=int(memory["total"]) // KIB_PER_MIB,
        libvirt_version=conn.getLibVersion(),
        qemu_version=conn.getVersion(),
        flag=flag,
        support=guest_support(conn, capabilities.domain_types(text)),
        # KVM may be listed and not work: then these are what counts.
        emulated=guest_support(conn, ("qemu",)),
    )


def _baseline(conn: Any, text: str) -> str | None:
    """The host's CPU with every feature spelled out. None where libvirt cannot say."""
    cpu = capabilities.host_cpu_xml(text)
    if cpu is None:
        return None
    try:
        return str(conn.baselineCPU([cpu], libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES))
    except libvirt.libvirtError:
        return None  # an unknown model: its listed features must do


def guest_support(conn: Any, domain_types: tuple[str, ...]) -> capabilities.GuestSupport:
    """For the machines that we make: q35 where there is one, KVM where it is listed."""
    kind = next((kind for kind in ("kvm", "qemu") if kind in domain_types), None)
    texts = (_domain_capabilities(conn, machine, kind) for machine in ("q35", None))
    text = next(filter(None, texts), None)
    if text is None:
        return capabilities.NOTHING_KNOWN
    return capabilities.guest_support(text)


def _domain_capabilities(conn: Any, machine: str | None, kind: str | None) -> str | None:
    try:
        return str(conn.getDomainCapabilities(None, None, machine, kind, 0))
    except libvirt.libvirtError as error:
        # No q35 (another architecture), or a driver without such capabilities (test).
        if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
            return None
        raise
