"""What the findings about a host mean, in plain words, and what to do about those that matter.

A finding with the key K is told by ``check.K.pass``, or by ``check.K`` when it is anything else;
``check.K.todo`` says what to do then. The order and the words follow ``virt-host-validate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RESULTS = {
    "pass": _("Passed"),
    "warn": _("Warning"),
    "fail": _("Failed"),
    "note": _("Note"),
}
# virt-host-validate warns of these; nothing that this site does needs them.
NOT_NEEDED = frozenset({"iommu", "secure_guest"})
_CGROUP_TODO = _(
    "Mount the control groups with this controller (on systemd hosts this is so by default), "
    "then restart libvirtd."
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check for a page, in the reader's language."""

    key: str
    result: str  # pass | warn | fail | note
    word: str
    text: str
    todo: str  # "" when nothing is to be done


def finding(check: Mapping[str, Any]) -> Finding:
    """Of one entry of ``Host.checks``. A key that this version does not know stays readable."""
    key, result = str(check.get("key", "")), str(check.get("result", "note"))
    if key in NOT_NEEDED and result != "pass":
        result = "note"
    params = check.get("params") or {}
    good = result == "pass"
    code = f"check.{key}.pass" if good else f"check.{key}"
    known = messages.is_known(code)
    todo = f"check.{key}.todo"
    return Finding(
        key=key,
        result=result if result in RESULTS else "note",
        word=str(RESULTS.get(result, RESULTS["note"])),
        text=messages.text(code, params) if known else _unknown(key, params),
        todo=messages.text(todo, params) if not good and messages.is_known(todo) else "",
    )


def findings(checks: Iterable[Mapping[str, Any]]) -> list[Finding]:
    return [finding(check) for check in checks]


def _unknown(key: str, params: Mapping[str, Any]) -> str:
    detail = str(params.get("detail", ""))
    return f"{key}: {detail}" if detail else key


def _probe_failed(params: Mapping[str, Any]) -> str:
    match params.get("reason"):
        case "no_cpu_flag":
            return gettext("KVM was not tried: the processor does not offer virtualization.")
        case "not_listed":
            return gettext("KVM was not tried: libvirt does not offer it.")
        case "no_pool":
            return gettext("KVM could not be tried: the host has no storage pool for the probe.")
        case "start_failed":
            return gettext("A probe machine could not be started with KVM (reference %(ref)s).") % {
                "ref": params.get("ref", "?")
            }
        case "crashed":
            return gettext("A probe machine started with KVM and then ended in a crash.")
        case _:
            return gettext("A probe machine started with KVM and hung: KVM only seems to be there.")


def _screens_how(params: Mapping[str, Any]) -> str:
    match params.get("why"):
        case "sign_in":
            return gettext(
                "This site's own SSH sign-in for screens failed (reference %(ref)s), though "
                "libvirt's worked: consoles show no screen."
            ) % {"ref": params.get("ref", "?")}
        case "tls":
            return gettext(
                "Connected by TLS, which carries no screens: machines here have a serial console "
                "and pictures of their screen."
            )
        case "account":
            return gettext(
                "The account that signs in is not root, so it may not open machines' screens: "
                "machines that start from now on show theirs on a loopback port, behind a password."
            )
        case _:
            return gettext(
                "sshd forwards to no unix sockets: machines that start from now on show their "
                "screen on a loopback port, behind a password."
            )


def _screens_todo(params: Mapping[str, Any]) -> str:
    if params.get("why") == "tls":
        return gettext("If you want screens in the page, connect the host by SSH.")
    return gettext(
        "Screens need sshd there to allow AllowStreamLocalForwarding (with root's account) or "
        "AllowTcpForwarding (with any). Then read the host again; machines that run already "
        "follow when they are shut down and started."
    )


messages.register(
    {
        "check.cpu_virtualization.pass": _("The processor offers hardware virtualization."),
        "check.cpu_virtualization": _(
            "The processor offers no hardware virtualization (neither vmx nor svm): machines are "
            "emulated, which is slower."
        ),
        "check.cpu_virtualization.todo": _(
            "Switch on VT-x or AMD-V in the firmware. If this host is a virtual machine itself, "
            "have nested virtualization switched on outside."
        ),
        "check.kvm_listed.pass": _("libvirt lists KVM for this host."),
        "check.kvm_listed": _("libvirt does not offer KVM on this host."),
        "check.kvm_listed.todo": _(
            "Load the module kvm_intel or kvm_amd, see that QEMU may open /dev/kvm, and restart "
            "libvirtd."
        ),
        "check.kvm_device.pass": _("/dev/kvm exists."),
        "check.kvm_device": _("/dev/kvm does not exist."),
        "check.kvm_device.todo": _("Load the module kvm_intel or kvm_amd."),
        "check.kvm_device_access.pass": _("libvirt may open /dev/kvm."),
        "check.kvm_device_access": _("libvirt may not open /dev/kvm."),
        "check.kvm_device_access.todo": _(
            "Give the group kvm access to /dev/kvm, and put libvirt's QEMU user into that group."
        ),
        "check.acceleration_probe.pass": _(
            "A probe machine ran with KVM and ended as it should (%(seconds)s s)."
        ),
        "check.acceleration_probe": _probe_failed,
        "check.acceleration_probe.todo": _(
            "Machines are emulated until this works. Look at the host's kernel log for kvm, then "
            "use “Check acceleration”. If you know better, override it below."
        ),
        "check.libvirt_version.pass": _("libvirt %(version)s is new enough."),
        "check.libvirt_version": _(
            "libvirt %(version)s is older than %(minimum)s, the oldest that was tried."
        ),
        "check.libvirt_version.todo": _("Update the host's libvirt."),
        "check.qemu_version.pass": _("QEMU %(version)s is new enough."),
        "check.qemu_version": _(
            "QEMU %(version)s is older than %(minimum)s, the oldest that was tried."
        ),
        "check.qemu_version.todo": _("Update the host's QEMU."),
        "check.uefi_firmware.pass": _("Firmware for UEFI machines is installed."),
        "check.uefi_firmware": _("No UEFI firmware: machines start with a BIOS only."),
        "check.uefi_firmware.todo": _("If you want UEFI machines, install the package ovmf."),
        "check.tpm_emulator.pass": _("A TPM can be emulated."),
        "check.tpm_emulator": _("No TPM emulator: machines with a TPM cannot start here."),
        "check.tpm_emulator.todo": _("If you want machines with a TPM, install swtpm."),
        "check.consoles_closed.pass": _(
            "No screen and no serial line of a machine listens on the network."
        ),
        "check.consoles_closed": _(
            "Open to the network, so that anybody who reaches this host may look or type: "
            "%(machines)s."
        ),
        "check.consoles_closed.todo": _(
            "Machines that this site made listen on no port: somebody changed these, or made them. "
            "Edit each (virsh edit): “<listen type='socket'/>” within <graphics>, “type='pty'” "
            "for a serial line; then stop it and start it."
        ),
        "check.screens_reached.pass": _("Machines' screens are reached through SSH."),
        "check.screens_reached": _screens_how,
        "check.screens_reached.todo": _screens_todo,
        "check.vhost_net.pass": _("The kernel speeds up virtio networking (vhost-net)."),
        "check.vhost_net": _("The kernel does not speed up virtio networking."),
        "check.vhost_net.todo": _("Load the module vhost_net. Networks work without it, slower."),
        "check.tun.pass": _("/dev/net/tun exists: machines can have network cards."),
        "check.tun": _("/dev/net/tun does not exist: no machine can have a network card."),
        "check.tun.todo": _("Load the module tun."),
        "check.cgroup_cpu.pass": _("CPU time can be shared out (control group cpu)."),
        "check.cgroup_cpu": _("CPU time cannot be shared out (control group cpu)."),
        "check.cgroup_cpu.todo": _CGROUP_TODO,
        "check.cgroup_cpuacct.pass": _("CPU time is accounted for (control group cpuacct)."),
        "check.cgroup_cpuacct": _("CPU time is not accounted for (control group cpuacct)."),
        "check.cgroup_cpuacct.todo": _CGROUP_TODO,
        "check.cgroup_cpuset.pass": _("Machines can be pinned to CPUs (control group cpuset)."),
        "check.cgroup_cpuset": _("Machines cannot be pinned to CPUs (control group cpuset)."),
        "check.cgroup_cpuset.todo": _CGROUP_TODO,
        "check.cgroup_memory.pass": _("Memory can be limited (control group memory)."),
        "check.cgroup_memory": _("Memory cannot be limited (control group memory)."),
        "check.cgroup_memory.todo": _CGROUP_TODO,
        "check.cgroup_devices.pass": _(
            "Machines are kept from the host's devices (control group devices)."
        ),
        "check.cgroup_devices": _(
            "Machines are not kept from the host's devices by a control group."
        ),
        "check.cgroup_devices.todo": _CGROUP_TODO,
        "check.cgroup_blkio.pass": _("Disk bandwidth can be shared out (control group blkio)."),
        "check.cgroup_blkio": _("Disk bandwidth cannot be shared out (control group blkio)."),
        "check.cgroup_blkio.todo": _CGROUP_TODO,
        "check.iommu.pass": _("Devices of the host can be handed to machines (IOMMU)."),
        "check.iommu": _(
            "Devices of the host cannot be handed to machines (no IOMMU). KVMWeb does not need it."
        ),
        "check.secure_guest.pass": _("Encrypted guest memory is supported."),
        "check.secure_guest": _(
            "Encrypted guest memory is not supported. KVMWeb does not need it."
        ),
    }
)
