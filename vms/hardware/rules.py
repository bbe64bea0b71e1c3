"""What of a machine can be changed now. Pure rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hosts.models import Network
from vms import verbs
from vms.models import VM
from vms.provisioning.domain import ISO_TARGET, is_installing

if TYPE_CHECKING:
    from jobs.models import Job

DISKS_MAX, NICS_MAX = 16, 8
TARGETS = tuple(f"vd{letter}" for letter in "abcdefghijklmnop")


def why_not(vm: VM, active: Job | None) -> str | None:
    """The code of why nothing of it can be changed now."""
    if code := verbs.why_busy(verbs.Situation.of(vm, active)):
        return code
    if vm.observed in (VM.Observed.MISSING, VM.Observed.UNKNOWN):
        return f"vm.why.{vm.observed}"
    return "vm.why.saved" if vm.saved else None


def why_not_disks(vm: VM, active: Job | None) -> str | None:
    """A snapshot holds the disks as they were: others would not go back with it."""
    if code := why_not(vm, active):
        return code
    return "vm.why.has_snapshots" if vm.snapshots.exists() else None


def free_target(vm: VM) -> str:
    taken = {disk.target for disk in vm.disks.all()}
    return next((target for target in TARGETS if target not in taken), "")


def bootable(vm: VM) -> list[str]:
    """What it can boot from, as libvirt's names: disks and its drive by target, network cards by
    MAC."""
    drive = [vm.iso_target or ISO_TARGET] if vm.iso_id else []
    return [*drive, *_disks_and_cards(vm)]


def offered_to_boot(vm: VM) -> list[str]:
    """Without the cards in whose networks nothing would answer, unless it boots from one now."""
    able, now = Network.that_boot(), boot_order(vm)
    silent = {nic.mac for nic in vm.nics.all() if nic.network not in able and nic.mac not in now}
    return [name for name in bootable(vm) if name not in silent]


def boot_order(vm: VM) -> list[str]:
    """What it boots from now, or will from the next start on."""
    known = bootable(vm)
    chosen = [name for name in vm.boot_order if name in known]
    return (
        chosen
        or ([ISO_TARGET] if is_installing(vm) else []) + [d.target for d in vm.disks.all()][:1]
    )


def _disks_and_cards(vm: VM) -> list[str]:
    return [disk.target for disk in vm.disks.all()] + [nic.mac for nic in vm.nics.all()]
