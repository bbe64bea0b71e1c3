"""Whether a machine's snapshots can be taken, gone back to and deleted now. Pure rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vms import verbs
from vms.models import VM, Snapshot
from vms.state import ON

if TYPE_CHECKING:
    from jobs.models import Job

# Begins with a letter: qemu-img takes a number for another snapshot's id.
NAME = re.compile(r"[^\W\d_][\w.+-]{0,62}")
DESCRIPTION_MAX = 500


def why_not(vm: VM, active: Job | None) -> str | None:
    """The code of why nothing can be done with its snapshots now."""
    situation = verbs.Situation.of(vm, active)
    if code := verbs.why_busy(situation):
        return code
    if vm.observed in (VM.Observed.MISSING, VM.Observed.UNKNOWN):
        return f"vm.why.{vm.observed}"
    if vm.saved:
        return "vm.why.saved"
    if vm.seed_volume:
        # It would come back with the snapshot, long after its disc is gone.
        return "vm.why.first_boot"
    return None


def why_not_take(vm: VM, active: Job | None) -> str | None:
    if code := why_not(vm, active):
        return code
    if vm.firmware != "bios":
        return "vm.why.snapshot_uefi"
    if any(disk.format != "qcow2" for disk in vm.disks.all()):
        return "vm.why.snapshot_format"
    return None


def why_not_back_to(vm: VM, snapshot: Snapshot, active: Job | None) -> str | None:
    if snapshot.state == Snapshot.State.MISSING:
        return "vm.why.snapshot_missing"
    return why_not(vm, active)


def is_on(vm: VM) -> bool:
    return vm.observed in ON
