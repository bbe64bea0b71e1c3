"""What the tab Hardware shows: what is now, what waits, and what can be changed. Database only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accounts import messages, policy
from accounts.policy import Action
from vms import flattening
from vms.hardware import rules
from vms.knobs import Knobs, knobs_of
from vms.lifecycle import active_job
from vms.models import VM

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, kw_only=True)
class HardwareView:
    can_edit: bool
    can_restart: bool  # something waits for it, and it is possible now
    why_not: str  # nothing can be changed now; "" when it can
    why_not_disks: str
    why_not_flatten: str
    pending_vcpus: int | None
    pending_memory_mib: int | None
    pending_boot: bool
    boot: list[str]  # in words: "vda", "52:54:00:…"
    built: Knobs | None  # None: adopted, so only its XML tells
    os_id: str

    @property
    def waits(self) -> bool:
        return (
            self.pending_vcpus is not None
            or self.pending_memory_mib is not None
            or self.pending_boot
        )


def _is_known(vm: VM) -> bool:
    """Not of one that was adopted before its definition was read for it."""
    adopted = vm.events.filter(kind="adopted").order_by("-id").first()
    return adopted is None or bool(adopted.params.get("built"))


def of(vm: VM, user: User) -> HardwareView:
    active = active_job(vm)
    able = policy.can(user, Action.EDIT, vm)

    def why(code: str | None) -> str:
        if not able:
            code = "vm.why.not_allowed"
        host = vm.host.name if vm.host else ""
        return messages.text(code, {"host": host, "name": vm.name}) if code else ""

    why_not = rules.why_not(vm, active)
    return HardwareView(
        can_edit=able,
        can_restart=why_not is None
        and vm.observed == VM.Observed.RUNNING
        and policy.can(user, Action.POWER, vm),
        why_not=why(why_not),
        why_not_disks=why(rules.why_not_disks(vm, active)),
        why_not_flatten=why(flattening.why_not(vm, active)),
        pending_vcpus=vm.pending.get("vcpus"),
        pending_memory_mib=vm.pending.get("memory_mib"),
        pending_boot="boot_order" in vm.pending,
        boot=rules.boot_order(vm),
        built=knobs_of(vm) if _is_known(vm) else None,
        os_id=vm.os_id or (vm.image.os_id if vm.image else ""),
    )
