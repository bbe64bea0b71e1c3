"""Of a wish: disks."""

from __future__ import annotations

from dataclasses import replace

from vms.knobs.gather import Settling
from vms.knobs.plan import DiskPlan, Knobs
from vms.knobs.recommend import Recommended
from vms.knobs.wish import DiskWish, Wish
from vms.knobs.words import BUSES, CACHES, DISCARDS, FORMATS, IOS

DISKS_MAX, IDE_MAX = 16, 4
# qemu-img makes these caches and modes work together only so.
DIRECT_CACHES = ("none", "directsync")


def settle_disks(
    settling: Settling,
    wish: Wish,
    advice: Recommended,
    knobs: Knobs,
    disk_gib: int,
    *,
    linked: bool,
) -> tuple[DiskPlan, ...]:
    problems = settling.problems
    wishes = (replace(wish.disk, size_gib=disk_gib), *wish.disks)
    if len(wishes) > DISKS_MAX:
        problems.add("disks", "vm.disks_many", limit=DISKS_MAX)
        wishes = wishes[:DISKS_MAX]
    plans: list[DiskPlan] = []
    used: set[str] = set()
    for number, one in enumerate(wishes, start=1):
        name = "disk" if number == 1 else f"disk{number}"
        plan = _disk(settling, name, one, advice.disk_bus, knobs)
        target = _target(plan.bus, used)
        if not target:
            problems.add(f"{name}_bus", "vm.bus_full", bus=plan.bus)
        used.add(target)
        plans.append(replace(plan, target=target))
    if linked and plans[0].format != "qcow2":
        problems.add("disk_format", "vm.linked_is_qcow2")
    return tuple(plans)


def _disk(settling: Settling, name: str, wish: DiskWish, bus: str, knobs: Knobs) -> DiskPlan:
    from vms.provisioning.validation import DISK_GIB_MAX

    problems = settling.problems
    plan = DiskPlan(
        target="",
        size_gib=wish.size_gib or 0,
        bus=wish.bus or bus,
        cache=wish.cache,
        discard=wish.discard or "unmap",
        io=wish.io,
        format=wish.format or "qcow2",
    )
    settling.one_of(f"{name}_bus", plan.bus, BUSES)
    settling.one_of(f"{name}_cache", plan.cache, ("", *CACHES))
    settling.one_of(f"{name}_discard", plan.discard, DISCARDS)
    settling.one_of(f"{name}_io", plan.io, ("", *IOS))
    settling.one_of(f"{name}_format", plan.format, FORMATS)
    if not 1 <= plan.size_gib <= DISK_GIB_MAX and name != "disk":
        problems.add(f"{name}_gib", "vm.disk_range", maximum=DISK_GIB_MAX)
    if plan.bus == "ide" and knobs.machine != "pc":
        problems.add(f"{name}_bus", "vm.ide_needs_pc")
    if plan.io == "native" and plan.cache not in DIRECT_CACHES:
        problems.add(f"{name}_io", "vm.io_native_cache")
    return plan


# The letters before are the seed's, the discs' and the drives' that may come.
_LETTERS = {"virtio": ("vd", "a"), "scsi": ("sd", "g"), "sata": ("sd", "g"), "ide": ("hd", "a")}


def _target(bus: str, used: set[str]) -> str:
    """ "": no place is left on it."""
    prefix, first = _LETTERS.get(bus, _LETTERS["virtio"])
    most = IDE_MAX if bus == "ide" else 20
    letters = [chr(ord(first) + index) for index in range(most)]
    return next((f"{prefix}{letter}" for letter in letters if f"{prefix}{letter}" not in used), "")
