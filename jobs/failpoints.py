"""Places where a test or a drill stops, kills or breaks a worker. Off unless a file names them.

``KVMWEB_FAILPOINTS_FILE`` has one line for each: ``<name> [action] [times]``. Names are
``<kind>/<step>:{before-do,after-do,before-undo,after-undo}``, and ``<kind>/claim:after`` and
``<kind>/final:before`` around them all, and ``<kind>/frozen`` while a guest's file systems stand
still. Actions:

- ``kill`` (default): SIGKILL to this process, as the out-of-memory killer does it
- ``kill-worker``: SIGKILL to the parent (the worker) and to this process
- ``raise``: an error that nobody expects; ``transient``: one that is tried again
- ``hold``: wait until the line is gone from the file

``times`` (default 1, 0: always) counts over all processes: each hit appends the name to
``<file>.hits`` before it acts.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from django.conf import settings

from jobs.registry import Transient

HOLD_POLL_S = 0.05


class FailpointError(RuntimeError):
    pass


def hit(name: str) -> None:
    if not settings.FAILPOINTS_FILE:
        return
    path = Path(settings.FAILPOINTS_FILE)
    found = _find(path, name)
    if found is None:
        return
    action, times = found
    hits = path.with_name(path.name + ".hits")
    if times and _count(hits, name) >= times:
        return
    with hits.open("a") as log:
        log.write(f"{name}\n")
    _act(path, name, action)


def _find(path: Path, name: str) -> tuple[str, int] | None:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        words = line.split()
        if words and words[0] == name:
            action = words[1] if len(words) > 1 else "kill"
            return action, int(words[2]) if len(words) > 2 else 1
    return None


def _count(hits: Path, name: str) -> int:
    return hits.read_text().splitlines().count(name) if hits.exists() else 0


def _act(path: Path, name: str, action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-worker":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "transient":
            raise Transient(name)
        case "hold":
            while _find(path, name) is not None:
                time.sleep(HOLD_POLL_S)
        case _:
            raise FailpointError(name)
