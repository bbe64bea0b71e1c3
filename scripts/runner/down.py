"""``scripts/down``: end exactly what ``scripts/up`` started."""

from __future__ import annotations

import argparse
import shutil
import subprocess

from runner import libvirt, processes, say, system
from runner.paths import PYTHON, ROOT, STARTED, UP_JSON, VAR


def purge_machines(step: say.Step) -> None:
    """Delete the machines, volumes and image copies that this site made on its hosts."""
    if not PYTHON.exists() or not (VAR / "kvmweb.sqlite3").exists():
        return
    done = subprocess.run(
        [str(PYTHON), "manage.py", "purge_hosts", "--yes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise say.StepFailed(
            "the machines could not all be deleted: " + done.stderr.strip()[-300:],
            "start the hosts and run ./scripts/down --purge again; nothing else was removed",
        )
    step.say(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="down", description="End what ./scripts/up started. Machines and data stay."
    )
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also delete the machines, disks and image copies it made, its lab, and var/",
    )
    options = parser.parse_args()
    with say.failures_told("down"):
        started = processes.read_started()
        with say.Step("Stopping the site") as step:
            if not processes.stop_supervisor():
                step.say("it was not running")
        UP_JSON.unlink(missing_ok=True)
        if options.purge and not started.get("lab"):
            with say.Step("Deleting its machines, disks and image copies") as step:
                purge_machines(step)
        if started.get("lab"):
            with say.Step("Stopping the lab"):
                libvirt.lab_down(purge=options.purge)
        if started.get("daemons"):
            with say.Step("Stopping the libvirt that up had started") as step:
                step.say(", ".join(libvirt.stop_started()))
        STARTED.unlink(missing_ok=True)
        if options.purge and VAR.exists():
            with say.Step(f"Removing {VAR}"):
                if not system.is_root() and started.get("lab"):
                    subprocess.run(system.as_root(["rm", "-rf", str(VAR / "lab")]), check=False)
                shutil.rmtree(VAR)


if __name__ == "__main__":
    main()
