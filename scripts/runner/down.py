"""``scripts/down``: end exactly what ``scripts/up`` started."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import subprocess

from runner import libvirt, processes, say, system
from runner.paths import PYTHON, ROOT, STARTED, UP_JSON, VAR

KEPT_NOTES = ("lab", "local", "network")


def purge_machines(step: say.Step) -> None:
    """Delete the machines, volumes and image copies that this site made on its hosts.

    The lab's hosts go as a whole, with all that is on them.
    """
    used = processes.read_started()
    if not PYTHON.exists() or not (used.get("lab") or used.get("local")):
        return  # no site was ever started here
    if used.get("local"):
        libvirt.ensure(step)
    done = subprocess.run(
        [str(PYTHON), "manage.py", "purge_hosts", "--yes", "--skip-lab"],
        cwd=ROOT,
        env=os.environ | {"KVMWEB_VAR": str(VAR)},
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


def end_all(*, purge: bool = False) -> None:
    """End what the latest ``up`` started; each part where it is there."""
    with say.Step("Stopping the site") as step:
        if not processes.stop_supervisor():
            step.say("it was not running")
    UP_JSON.unlink(missing_ok=True)
    if purge:
        with say.Step("Deleting its machines, disks and image copies") as step:
            purge_machines(step)
    started = processes.read_started()
    if started.get("lab"):
        with say.Step("Stopping the lab"):
            libvirt.lab_down(purge=purge)
    if started.get("network") and libvirt.answers():
        with say.Step("Stopping the network that up had started") as step:
            if libvirt.stop_network():
                del started["network"]
            else:
                step.say("machines are on: it stays")
    if started.get("daemons"):
        with say.Step("Stopping the libvirt that up had started") as step:
            step.say(", ".join(libvirt.stop_started()))
    # Which hypervisors it has used stays known: a later --purge deletes what lies there.
    STARTED.write_text(json.dumps({key: True for key in KEPT_NOTES if started.get(key)}))


def remove_var(step: say.Step) -> None:
    try:
        shutil.rmtree(VAR)
    except PermissionError:  # what root made there: a lab's folder
        if system.is_root():
            raise
        subprocess.run(system.as_root(["rm", "-rf", "--one-file-system", str(VAR)]), check=True)
    except OSError as error:
        # A folder that is a mount point itself is emptied and stays.
        if error.errno != errno.EBUSY:
            raise
        step.say("it is a mount point: emptied")


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
        if not VAR.exists():
            print("Nothing was started here.")
            return
        with processes.only_one("down"):
            end_all(purge=options.purge)
            if options.purge:
                with say.Step(f"Removing {VAR}") as step:
                    remove_var(step)


if __name__ == "__main__":
    main()
