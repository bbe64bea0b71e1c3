"""Every benchmark, one after the other, as one JSON document on the standard output.

    sudo .venv/bin/python benchmarks/run.py            # about ten minutes
    .venv/bin/python benchmarks/run.py list_page queue_latency

Each prints ratios of one run against a plain way to do the same, so that a slow machine slows
both. ``docs/contributor/benchmarks.md`` says what each measures, its goal, and the last figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# In this order; those that need the lab share one.
WITHOUT_LAB = (
    "list_page",
    "permissions",
    "queue_latency",
    "quota",
    "console",
    "console_viewers",
)
WITH_LAB = (
    "create",
    "batch",
    "template",
    "clone",
    "snapshot",
    "watch_latency",
    "page_latency",
)
OF_A_RUNNING_SITE = ("memory",)  # ./scripts/up --detach before


def run(name: str, *words: str) -> dict[str, Any]:
    print(f"· {name}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        return {"failed": (done.stderr or done.stdout)[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout[start:])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*WITHOUT_LAB, *WITH_LAB, *OF_A_RUNNING_SITE]
    parser.add_argument("names", nargs="*", choices=[[], *known], help="default: all but memory")
    names = parser.parse_args().names or [*WITHOUT_LAB, *WITH_LAB]
    results: dict[str, Any] = {"machine": platform.platform(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="kvmweb-bench-lab-") as folder:
        lab = [str(ROOT / "scripts" / "lab"), "--dir", folder]
        needs_lab = [name for name in names if name in WITH_LAB]
        if needs_lab:
            subprocess.run([*lab, "up", "1"], check=True, stdout=sys.stderr)
        try:
            for name in names:
                results[name] = run(name, *(["--lab", folder] if name in needs_lab else []))
        finally:
            if needs_lab:
                subprocess.run([*lab, "down", "--purge"], check=False, stdout=sys.stderr)
    print(json.dumps(results, indent=1))
    return int(any("failed" in result for result in results.values() if isinstance(result, dict)))


if __name__ == "__main__":
    sys.exit(main())
