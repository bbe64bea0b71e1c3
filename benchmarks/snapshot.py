"""A snapshot with memory of a running machine, against ``virsh snapshot-create-as`` of the same.

    .venv/bin/python benchmarks/snapshot.py [--lab DIR] [--rounds 5]

Prints JSON; both in turn, in one run. Goal: at most 1.2 times. Needs root for the lab.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab_site import SEEDLESS, Site, against, running_site

FACTOR = 1.2
MEMORY_MIB = 512
BOOT_S = 15.0
TAKE = "virsh -q snapshot-create-as {domain} bare >/dev/null"
DROP = "virsh -q snapshot-delete {domain} bare >/dev/null"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    plain, site = [], []
    with running_site(arguments.lab) as running:
        vm = running.machine(image=SEEDLESS, memory_mib=MEMORY_MIB)
        time.sleep(BOOT_S)  # by then it has touched the memory that it will
        domain = running.domain_of(vm["uuid"])
        for number in range(arguments.rounds):
            plain.append(running.bare.timed(TAKE.format(domain=domain)))
            running.bare.timed(DROP.format(domain=domain))
            site.append(_take(running, vm["uuid"], f"s{number}"))
    print(against("snapshot", site, plain, factor=FACTOR, memory_mib=MEMORY_MIB))
    return 0


def _take(running: Site, uuid: str, name: str) -> float:
    path = f"/vms/{uuid}/snapshots"
    kept: list[int] = []

    def ask() -> dict[str, object]:
        wanted = {"name": name, "memory": True}
        answer: dict[str, object] = running.stack.api("POST", path, wanted)
        kept.append(answer["snapshot"])  # type: ignore[arg-type]
        return answer

    took = running.timed_job(ask)
    answer = running.stack.api("DELETE", f"{path}/{kept[0]}")
    running.timed_job(lambda: answer)
    return took


if __name__ == "__main__":
    raise SystemExit(main())
