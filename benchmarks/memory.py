"""Memory of everything that ``scripts/up`` starts, idle: proportional set size, in MiB.

    ./scripts/up --detach && .venv/bin/python benchmarks/memory.py

Reads ``/proc/PID/smaps_rollup`` of supervisord and all that descends from it (shared pages are
shared out, so that the sum is true). libvirt and guests are not ours and are not counted.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("KVMWEB_VAR", ROOT / "var"))
GOAL_MIB = 600


def children() -> dict[int, list[int]]:
    table: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        table[int(fields[1])].append(int(stat.parent.name))
    return table


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    try:
        root = int((VAR / "supervisord.pid").read_text())
    except FileNotFoundError:
        sys.exit("nothing runs: ./scripts/up --detach first")
    table, waiting, pids = children(), [root], []
    while waiting:
        pid = waiting.pop()
        pids.append(pid)
        waiting += table.get(pid, [])
    by_name: dict[str, float] = defaultdict(float)
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = " ".join(word.decode() for word in words[:6] if word)
        by_name[name[-70:]] += pss_kib(pid) / 1024
    total = sum(by_name.values())
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "processes": len(pids),
                "mib": {name: round(mib, 1) for name, mib in sorted(by_name.items())},
                "total_mib": round(total, 1),
                "goal_mib": GOAL_MIB,
                "met": total < GOAL_MIB,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
