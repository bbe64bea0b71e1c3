"""A machine from an image that is on the host: POST to running, against the bare script.

    .venv/bin/python benchmarks/create.py [--lab DIR] [--rounds 5]

Prints JSON. Both are measured in turn in one run, so that the machine's mood hits both alike.
Goal: at most 1.2 times the script's time and half a second. Needs root for the lab.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab_site import against, running_site

FACTOR, EXTRA_S = 1.2, 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    script, site = [], []
    with running_site(arguments.lab) as running:
        for _ in range(arguments.rounds):
            script.append(running.script(1))
            site.append(running.make(1))
    print(against("create", site, script, factor=FACTOR, extra_s=EXTRA_S))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
