"""Running commands, and the one kind of error that the lab tells a person."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

COMMAND_TIMEOUT_S = 60


class LabError(Exception):
    """Something that the person at the keyboard should read; the text says what to do."""


def run(
    argv: Sequence[str], *, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run and capture; a failure becomes a LabError that carries the command's own words."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(argv)}` gave no answer in {COMMAND_TIMEOUT_S} s.") from error
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise LabError(f"`{' '.join(argv)}` failed: {words}")
    return done


def wait_for(condition: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"Waited {timeout_s:g} s in vain for {what}.")
        time.sleep(0.05)
