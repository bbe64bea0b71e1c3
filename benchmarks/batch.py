"""30 linked clones started by the site, against the bare script in a loop.

    .venv/bin/python benchmarks/batch.py [--lab DIR] [--count 30] [--rounds 1]

Prints JSON; both in one run. Goal: at most 1.2 times. Needs root for the lab.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab_site import running_site

FACTOR = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    script, site = [], []
    with running_site(arguments.lab) as running:
        for _ in range(arguments.rounds):
            script.append(running.script(arguments.count))
            site.append(running.make(arguments.count))
    bare_s, site_s = statistics.median(script), statistics.median(site)
    print(
        json.dumps(
            {
                "benchmark": "batch",
                "count": arguments.count,
                "script_s": [round(value, 3) for value in script],
                "site_s": [round(value, 3) for value in site],
                "ratio": round(site_s / bare_s, 2),
                "goal": f"at most {FACTOR} x",
                "met": site_s <= bare_s * FACTOR,
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
