"""What a host's checks say, and whether KVM really works on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hosts.virt import capabilities, checks, probe
from hosts.virt.capabilities import GuestSupport
from hosts.virt.client import LibvirtHypervisor
from hosts.virt.client.host import cpu_percent
from hosts.virt.connection import Connection
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import HostFacts
from tests.lab.conftest import RunningLab

VALIDATED = """
  QEMU: Checking for hardware virtualization                                 : PASS
  QEMU: Checking if device /dev/kvm exists                                   : PASS
  QEMU: Checking if device /dev/kvm is accessible                            : FAIL (Check /dev/kvm is world writable or you are in a group that is allowed to access it)
  QEMU: Checking if device /dev/vhost-net exists                             : WARN (Load the 'vhost_net' module to improve performance of virtio networking)
  QEMU: Checking if device /dev/net/tun exists                               : PASS
  QEMU: Checking for cgroup 'cpu' controller support                         : PASS
  QEMU: Checking for cgroup 'memory' controller support                      : PASS
  QEMU: Checking for device assignment IOMMU support                         : WARN (No ACPI DMAR table found, IOMMU either disabled in BIOS or not supported by this hardware platform)
  QEMU: Checking for secure guest support                                    : WARN (Unknown if this platform has Secure Guest support)
   LXC: Checking for Linux >= 2.6.26                                         : PASS
"""  # noqa: E501 - as the tool prints it
FACTS = FakeHypervisor(domain_types=("qemu", "kvm")).facts()
SUPPORT = GuestSupport(firmwares=("bios",), tpm_emulator=False, video_models=("vga",), cpu_modes=())


def test_virt_host_validate_is_read() -> None:
    found = {check.key: check for check in checks.parse_virt_host_validate(VALIDATED)}
    assert found["cpu_virtualization"].result == "pass"
    assert found["kvm_device_access"].result == "fail"
    assert "group" in found["kvm_device_access"].params["detail"]
    assert found["vhost_net"].result == "warn"
    assert found["cgroup_memory"].result == "pass"
    assert found["iommu"].result == "warn"
    assert len(found) == 9


def _assess(facts: HostFacts, **changes: object) -> dict[str, str]:
    local = checks.parse_virt_host_validate(VALIDATED) if changes.get("local") else None
    return {check.key: check.result for check in checks.assess(facts, SUPPORT, local)}


def test_a_remote_host_is_judged_by_what_libvirt_says() -> None:
    facts = replace(FACTS, libvirt_version="7.10.0", domain_types=("qemu",), cpu_virt_flag=False)
    assert _assess(facts) == {
        "cpu_virtualization": "fail",
        "kvm_listed": "fail",
        "libvirt_version": "warn",
        "qemu_version": "pass",
        "uefi_firmware": "pass",
        "tpm_emulator": "note",
    }


def test_the_hosts_own_tool_wins() -> None:
    found = _assess(replace(FACTS, cpu_virt_flag=False), local=True)
    assert found["cpu_virtualization"] == "pass"
    assert list(found) == [key for key in checks.KEYS if key in found]


def test_svm_hides_in_the_cpu_model() -> None:
    """EPYC contains svm without naming it; libvirt's expanded baseline does name it."""
    listed = "<cpu><model>EPYC</model><feature name='x2apic'/></cpu>"
    expanded = "<cpu><model>EPYC</model><feature policy='require' name='svm'/></cpu>"
    assert capabilities.virt_flag(listed) is None
    assert capabilities.virt_flag(listed, expanded) == "svm"
    assert capabilities.virt_flag(None, None) is None


def test_cpu_percent_is_the_share_between_two_samples() -> None:
    before = {"user": 0, "kernel": 0, "idle": 0, "iowait": 0}
    now = {"user": 20, "kernel": 5, "idle": 70, "iowait": 5}
    assert cpu_percent(None, now) is None
    assert cpu_percent(before, now) == 25.0
    assert cpu_percent(now, now) is None


def test_without_the_cpu_flag_nothing_is_booted() -> None:
    """The connection would fail if it were used."""
    nowhere = Connection("qemu+unix:///system?socket=/nonexistent")
    found = probe.acceleration(nowhere, replace(FACTS, cpu_virt_flag=False), timeout_s=1)
    assert (found.result, found.params["reason"]) == ("fail", "no_cpu_flag")
    found = probe.acceleration(nowhere, replace(FACTS, domain_types=("qemu",)), timeout_s=1)
    assert (found.result, found.params["reason"]) == ("fail", "not_listed")


def _hypervisor(lab: RunningLab) -> LibvirtHypervisor:
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    hypervisor.ensure_pool("default", "/var/lib/libvirt/images")
    return hypervisor


def _nothing_left(hypervisor: LibvirtHypervisor) -> bool:
    domains = [facts.name for facts in hypervisor.list_domains()]
    volumes = [
        volume.name
        for pool in hypervisor.list_pools()
        if pool.active
        for volume in hypervisor.list_volumes(pool.name)
    ]
    return not any(name.startswith(probe.NAME_PREFIX) for name in (*domains, *volumes))


@pytest.mark.lab
def test_the_probe_ends_by_itself(lab: RunningLab) -> None:
    """Under emulation, which works everywhere: the marker is real."""
    hypervisor = _hypervisor(lab)
    found = probe.run(hypervisor.connection, domain_type="qemu", arch="x86_64", timeout_s=60)
    assert (found.key, found.result) == ("acceleration_probe", "pass"), found
    assert _nothing_left(hypervisor)
    hypervisor.close()


@pytest.mark.lab
def test_a_guest_that_never_ends_fails_and_is_removed(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    spins = b"\xeb\xfe".ljust(510, b"\x00") + probe.BOOT_SIGNATURE  # jmp to itself
    monkeypatch.setattr(probe, "BOOT_SECTOR", spins)
    hypervisor = _hypervisor(lab)
    found = probe.run(hypervisor.connection, domain_type="qemu", arch="x86_64", timeout_s=4)
    assert (found.result, found.params["reason"]) == ("fail", "hang")
    assert _nothing_left(hypervisor)
    hypervisor.close()


@pytest.mark.lab
def test_this_machine(lab: RunningLab) -> None:
    """Its CPU decides: with the flag the probe boots, without it fails at once."""
    hypervisor = _hypervisor(lab)
    flags = Path("/proc/cpuinfo").read_text().split()
    found = hypervisor.probe_acceleration(timeout_s=60)
    if "vmx" not in flags and "svm" not in flags:
        assert found.params["reason"] == "no_cpu_flag"
    else:
        assert found.result in ("pass", "fail")
    assert _nothing_left(hypervisor)
    hypervisor.close()
