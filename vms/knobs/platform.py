"""Of a wish: processor, firmware and what is on the board."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from vms.knobs.gather import Settling
from vms.knobs.plan import Knobs
from vms.knobs.wish import Wish
from vms.knobs.words import (
    CLOCKS,
    CPU_MODES,
    DISC_BUSES,
    FIRMWARES,
    MACHINES,
    VIDEOS,
    WATCHDOGS,
)

if TYPE_CHECKING:
    from vms.provisioning.validation import Problems

THREADS_MAX = 64
CPU_MODEL = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")


def settle_platform(settling: Settling, wish: Wish, advice: Knobs, vcpus: int) -> Knobs:
    given = {
        each.name: value
        for each in fields(Knobs)
        if (value := getattr(wish, each.name, None)) not in ("", None)
    }
    knobs = replace(advice, **given)
    if "machine" in given and "firmware" not in given and knobs.machine != "q35":
        knobs = replace(
            knobs, firmware="bios" if advice.firmware == "secureboot" else knobs.firmware
        )
    problems, has = settling.problems, settling.has
    settling.one_of("machine", knobs.machine, MACHINES)
    settling.one_of("firmware", knobs.firmware, FIRMWARES)
    settling.one_of("video", knobs.video, VIDEOS)
    settling.one_of("clock", knobs.clock, CLOCKS)
    settling.one_of("watchdog", knobs.watchdog, ("", *WATCHDOGS))
    settling.one_of("cpu_mode", knobs.cpu_mode, ("", *CPU_MODES))
    settling.one_of("disc_bus", knobs.disc_bus, DISC_BUSES)
    if knobs.machine in MACHINES and knobs.machine not in has.machines:
        problems.add("machine", "vm.host_lacks", need=knobs.machine)
    if knobs.firmware in FIRMWARES and knobs.firmware not in has.firmwares:
        problems.add("firmware", "vm.host_lacks", need=knobs.firmware)
    if knobs.firmware == "secureboot" and knobs.machine != "q35":
        problems.add("firmware", "vm.secureboot_q35")
    if knobs.tpm and not has.tpm:
        problems.add("tpm", "vm.host_lacks", need="TPM 2.0")
    _check_cpu(settling, knobs)
    return _with_topology(problems, knobs, vcpus)


def _check_cpu(settling: Settling, knobs: Knobs) -> None:
    problems = settling.problems
    if knobs.cpu_mode == "host-passthrough" and not settling.has.kvm:
        problems.add("cpu_mode", "vm.host_lacks", need="KVM")
    if knobs.cpu_mode != "custom":
        if knobs.cpu_model:
            problems.add("cpu_model", "vm.cpu_model_mode")
        return
    if not CPU_MODEL.fullmatch(knobs.cpu_model) or (knobs.cpu_model not in settling.has.cpu_models):
        problems.add("cpu_model", "vm.cpu_model_unknown", given=knobs.cpu_model[:40])


def _with_topology(problems: Problems, knobs: Knobs, vcpus: int) -> Knobs:
    layout = (knobs.sockets, knobs.cores, knobs.threads)
    if not any(layout):
        return knobs
    # Cut off: a number of thousands of digits is no product that can be shown.
    sockets, cores, threads = (min(max(1, part), THREADS_MAX + 1) for part in layout)
    if any(part < 0 or part > THREADS_MAX for part in layout) or sockets * cores * threads != vcpus:
        problems.add("sockets", "vm.topology_product", product=sockets * cores * threads, n=vcpus)
    return replace(knobs, sockets=sockets, cores=cores, threads=threads)
