"""What ``virt-host-validate`` would say of a host, in a form that a page can put into words.

Part comes from libvirt and holds for every host; part only the host itself can say (devices,
cgroups, IOMMU), and is there when the host is this machine and has the tool.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from hosts.virt.capabilities import X86, GuestSupport
from hosts.virt.spec import Check, HostFacts

# key -> the English sentence that belongs to it (pass, then what is wrong otherwise). The words
# that people read are made by the hosts app; these are what its translations start from.
KEYS: dict[str, str] = {
    "cpu_virtualization": "The CPU has hardware virtualisation (%(flag)s).",
    "kvm_listed": "libvirt offers KVM machines on this host.",
    "kvm_device": "/dev/kvm exists.",
    "kvm_device_access": "libvirt may open /dev/kvm.",
    "acceleration_probe": "A probe machine ran with KVM.",
    "libvirt_version": "libvirt %(version)s is new enough (at least %(minimum)s).",
    "qemu_version": "QEMU %(version)s is new enough (at least %(minimum)s).",
    "uefi_firmware": "Firmware for UEFI machines is installed.",
    "tpm_emulator": "TPMs can be emulated (swtpm).",
    "vhost_net": "The kernel speeds up virtio networking (vhost_net).",
    "tun": "/dev/net/tun exists: machines can have network cards.",
    "cgroup_cpu": "The kernel can share CPU time between machines (cgroup cpu).",
    "cgroup_cpuacct": "The kernel accounts for CPU time (cgroup cpuacct).",
    "cgroup_cpuset": "Machines can be pinned to CPUs (cgroup cpuset).",
    "cgroup_memory": "The kernel can limit machines' memory (cgroup memory).",
    "cgroup_devices": "Machines are kept from the host's devices (cgroup devices).",
    "cgroup_blkio": "The kernel can share disk bandwidth (cgroup blkio).",
    "iommu": "Devices of the host can be handed to machines (IOMMU).",
    "consoles_closed": "No screen and no serial line listens on the network.",
    "secure_guest": "Encrypted machines are possible (SEV, TDX, Secure Execution).",
}

MINIMUM_LIBVIRT = "8.0.0"  # Ubuntu 22.04
MINIMUM_QEMU = "6.2.0"
TOOL_TIMEOUT_S = 15

_LINE = re.compile(
    r"^\s*QEMU: Checking (?P<what>.+?)\s*:\s*(?P<result>PASS|WARN|FAIL)\b\s*(?P<why>.*)$"
)
_RESULTS = {"PASS": "pass", "WARN": "warn", "FAIL": "fail"}
# Its wording (tools/virt-host-validate-common.c) -> our key. First match counts.
_WHAT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"hardware virtualization"), "cpu_virtualization"),
    (re.compile(r"/dev/kvm exists"), "kvm_device"),
    (re.compile(r"/dev/kvm is accessible"), "kvm_device_access"),
    (re.compile(r"/dev/vhost-net"), "vhost_net"),
    (re.compile(r"/dev/net/tun"), "tun"),
    (re.compile(r"cgroup '(cpu|cpuacct|cpuset|memory|devices|blkio)'"), "cgroup_"),
    (re.compile(r"IOMMU"), "iommu"),
    (re.compile(r"[Ss]ecure guest"), "secure_guest"),
)
REASON_LIMIT = 200


def run_virt_host_validate() -> list[Check] | None:
    """Its findings for this machine. None: the tool is not here, or does not answer."""
    tool = shutil.which("virt-host-validate")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "qemu"],
            check=False,  # it exits 1 when anything failed
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_virt_host_validate(done.stdout)


def parse_virt_host_validate(text: str) -> list[Check]:
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        key = _key(match["what"]) if match else None
        if match is None or key is None:
            continue
        why = match["why"].strip().removeprefix("(").removesuffix(")")[:REASON_LIMIT]
        params = {"detail": why} if why else {}
        found.append(Check(key=key, result=_RESULTS[match["result"]], params=params))
    return found


def _key(what: str) -> str | None:
    for pattern, key in _WHAT:
        if match := pattern.search(what):
            return key + match[1] if key.endswith("_") else key
    return None


def assess(facts: HostFacts, support: GuestSupport, local: list[Check] | None) -> list[Check]:
    """All findings, in the order in which they matter; the local tool's own win over ours."""
    flag = "pass" if facts.cpu_virt_flag else "fail"
    ours = [
        Check(key="cpu_virtualization", result=flag),
        Check(key="kvm_listed", result="pass" if "kvm" in facts.domain_types else "fail"),
        _at_least("libvirt_version", facts.libvirt_version, MINIMUM_LIBVIRT),
        _at_least("qemu_version", facts.qemu_version, MINIMUM_QEMU),
    ]
    if facts.arch in X86:
        # Neither is needed for a BIOS machine: a note, no warning.
        efi = "pass" if "efi" in facts.firmwares else "note"
        ours.append(Check(key="uefi_firmware", result=efi))
        ours.append(Check(key="tpm_emulator", result="pass" if support.tpm_emulator else "note"))
    by_key = {check.key: check for check in [*ours, *(local or [])]}
    return [by_key[key] for key in KEYS if key in by_key]


def _at_least(key: str, version: str, minimum: str) -> Check:
    good = _parts(version) >= _parts(minimum)
    params = {"version": version, "minimum": minimum}
    return Check(key=key, result="pass" if good else "warn", params=params)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
