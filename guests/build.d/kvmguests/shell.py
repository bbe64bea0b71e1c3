"""Running commands, saying what is done, and the one kind of error that a person reads."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ERROR_LINES = 20
_started = time.monotonic()


class BuildError(Exception):
    """What went wrong and what to do about it."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """Run; its output is returned, or, when it fails, becomes the error's text."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=env, input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed.") from error
    if done.returncode:
        text = (done.stderr or done.stdout).decode(errors="replace").strip()
        tail = "\n".join(text.splitlines()[-ERROR_LINES:])
        raise BuildError(f"`{' '.join(words[:6])} ...` failed ({done.returncode}):\n{tail}")
    return done.stdout
