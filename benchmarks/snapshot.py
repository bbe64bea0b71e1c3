"""A snapshot with memory of a running machine, against ``virsh snapshot-create-as`` of the same.

    .venv/bin/python benchmarks/snapshot.py [--lab DIR] [--rounds 5] [--fill-mib 400]

Of two machines of one size: one that uses its memory (its shell has filled ``/tmp``, which lies in
memory, with random bytes) and one that has only booted. Prints JSON; all in turn, in one run. Goal:
at most 1.2 times, judged on the one that uses its memory: of the other there is little to write, so
that its figure says what a job costs beside its work. Needs root for the lab.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.guest_shell import Shell
from benchmarks.lab_site import Site, compared, running_site
from tests.stack import PASSWORD

FACTOR = 1.2
MEMORY_MIB = 1024
MOST_TMP = 0.45  # its files in memory may take half of it
FILL_S = 180.0
MIB = 1024**2
TAKE = "virsh -q snapshot-create-as {domain} bare >/dev/null"
DROP = "virsh -q snapshot-delete {domain} bare >/dev/null"


@dataclass(kw_only=True)
class Machine:
    site: Site
    uuid: str
    domain: str
    plain_s: list[float] = field(default_factory=list)
    site_s: list[float] = field(default_factory=list)
    grew_mib: list[float] = field(default_factory=list)

    def measure(self, number: int) -> None:
        """Both, the first of them in turn. What the one before has written is on the disk by then:
        it would be paid for by whoever comes next."""
        ways = (self._plainly, lambda: self._take(f"s{number}"))
        for way in ways if number % 2 == 0 else reversed(ways):
            os.sync()
            way()

    def fill(self, mib: int) -> None:
        with Shell(self.site.stack, self.uuid) as shell:
            shell.run(f"dd if=/dev/urandom of=/tmp/fill bs=1M count={mib}", timeout_s=FILL_S)

    def result(self, **more: Any) -> dict[str, Any]:
        grew = round(statistics.median(self.grew_mib))
        return compared(self.site_s, self.plain_s, factor=FACTOR, **more, snapshot_mib=grew)

    def _plainly(self) -> None:
        bare = self.site.bare
        self.plain_s.append(bare.timed(TAKE.format(domain=self.domain)))
        bare.timed(DROP.format(domain=self.domain))

    def _take(self, name: str) -> None:
        path = f"/vms/{self.uuid}/snapshots"
        stack = self.site.stack
        kept: list[int] = []

        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = stack.api("POST", path, {"name": name, "memory": True})
            kept.append(answer["snapshot"])
            return answer

        self.site_s.append(self.site.timed_job(ask))
        (taken,) = stack.api("GET", path)["items"]
        self.grew_mib.append(taken["size_bytes"] / MIB)
        answer = stack.api("DELETE", f"{path}/{kept[0]}")
        self.site.timed_job(lambda: answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fill-mib", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.fill_mib > MEMORY_MIB * MOST_TMP:
        parser.error(f"its /tmp holds {MEMORY_MIB * MOST_TMP:.0f} MiB")
    with running_site(arguments.lab) as site:
        used, empty = _machine(site), _machine(site)
        used.fill(arguments.fill_mib)
        for number in range(arguments.rounds):
            used.measure(number)
            empty.measure(number)
    found = {
        "benchmark": "snapshot",
        "memory_mib": MEMORY_MIB,
        **used.result(filled_mib=arguments.fill_mib),
        "nearly_empty": empty.result(filled_mib=0),
    }
    print(json.dumps(found, indent=1))
    return 0


def _machine(site: Site) -> Machine:
    """It has booted as a whole: a machine whose seed is still there takes no snapshot."""
    uuid = site.machine(memory_mib=MEMORY_MIB, password=PASSWORD)["uuid"]
    site.wait_booted(uuid)
    return Machine(site=site, uuid=uuid, domain=site.domain_of(uuid))


if __name__ == "__main__":
    raise SystemExit(main())
