"""A full clone of a machine with 2 GiB on its disk, against ``virt-clone`` of the same machine.

    .venv/bin/python benchmarks/clone.py [--lab DIR] [--rounds 3] [--gib 2]

Prints JSON; both in turn, in one run. Goal: at most 1.1 times. Needs root, and 3 x the size free.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bare import POOL
from benchmarks.lab_site import SEEDLESS, Site, against, running_site

FACTOR = 1.1
FILL = """
head -c {gib}G /dev/urandom > {pool}/fill.raw
qemu-img convert -f raw -O qcow2 {pool}/fill.raw {file}
rm {pool}/fill.raw
virsh -q pool-refresh default
sync
"""
CLONE = "virt-clone -q --connect qemu:///system --original {domain} --name bare --auto-clone"
CLEAN = "virsh -q undefine bare --remove-all-storage >/dev/null"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gib", type=int, default=2)
    arguments = parser.parse_args()
    plain, site = [], []
    with running_site(arguments.lab) as running:
        vm = running.machine(start=False, image=SEEDLESS, copy="full", disk_gib=arguments.gib)
        file = f"{POOL}/kvmweb-{vm['uuid']}-vda.qcow2"
        running.bare.timed(FILL.format(gib=arguments.gib, pool=POOL, file=file))
        domain = running.domain_of(vm["uuid"])
        for number in range(arguments.rounds):
            plain.append(running.bare.timed(CLONE.format(domain=domain)))
            running.bare.timed(CLEAN)
            site.append(_clone(running, vm["uuid"], f"copy-{number}"))
    print(against("clone", site, plain, factor=FACTOR, gib=arguments.gib))
    return 0


def _clone(running: Site, uuid: str, name: str) -> float:
    made: list[str] = []

    def ask() -> dict[str, object]:
        wanted = {"name": name, "copy": "full", "start": False}
        answer: dict[str, object] = running.stack.api("POST", f"/vms/{uuid}/clone", wanted)
        made.append(answer["vm"]["uuid"])  # type: ignore[index]
        return answer

    took = running.timed_job(ask)
    running.remove(made[0])
    return took


if __name__ == "__main__":
    raise SystemExit(main())
