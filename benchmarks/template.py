"""A machine from a template: POST to running, against the bare script on the same file.

    .venv/bin/python benchmarks/template.py [--lab DIR] [--rounds 5]

Prints JSON; both in turn, in one run. Goal: at most 1.2 times and half a second. Needs root.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab_site import SEEDLESS, Site, against, running_site

FACTOR, EXTRA_S = 1.2, 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    plain, site = [], []
    with running_site(arguments.lab) as running:
        version, file = _template(running)
        for _ in range(arguments.rounds):
            plain.append(running.script(1, image=file))
            site.append(running.make(1, image=version))
    print(against("template", site, plain, factor=FACTOR, extra_s=EXTRA_S))
    return 0


def _template(running: Site) -> tuple[int, str]:
    """A version's id, and its file on the host."""
    vm = running.machine(start=False, image=SEEDLESS)
    answer = running.stack.api("POST", f"/vms/{vm['uuid']}/template", {"name": "bench"})
    running.timed_job(lambda: answer)
    version: int = answer["template"]["versions"][0]["image"]
    return version, running.file_of(version)


if __name__ == "__main__":
    raise SystemExit(main())
