"""The virtual environment: uv, from a small venv of its own, and what uv.lock says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runner import say
from runner.paths import CACHE, LOGS, PYTHON, ROOT, VENV

UV_VERSION = "0.13.9"
OLDEST = (3, 10)


def system_python() -> str:
    """The distribution's Python: libvirt-python is compiled against its headers."""
    for candidate in ("/usr/bin/python3", sys.executable):
        if not Path(candidate).exists():
            continue
        shown = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        if tuple(map(int, shown)) >= OLDEST:
            return candidate
    raise say.StepFailed("no Python of 3.10 or newer", "use Debian 12 or Ubuntu 22.04, or newer")


def find_uv(step: say.Step) -> Path:
    uv = CACHE / f"uv-{UV_VERSION}" / "bin" / "uv"
    if uv.exists():
        return uv
    home = uv.parent.parent
    log = LOGS / "python.log"
    advice = "check that the Python package index can be reached from here (pip's settings apply)"
    step.say("fetching uv")
    say.run([system_python(), "-m", "venv", home], step=step, log=log, advice=advice)
    say.run(
        [home / "bin" / "pip", "install", "-q", f"uv=={UV_VERSION}"],
        step=step,
        log=log,
        advice=advice,
    )
    return uv


def sync(*, step: say.Step, dev: bool = False) -> None:
    """Make the environment agree with uv.lock; nothing is fetched when it does already."""
    uv = find_uv(step)
    env = dict(os.environ, UV_PYTHON_DOWNLOADS="never", UV_PROJECT_ENVIRONMENT=str(VENV))
    env.setdefault("UV_HTTP_TIMEOUT", "180")
    env.setdefault("UV_LINK_MODE", "copy")
    if env.get("PIP_CERT"):
        env.setdefault("SSL_CERT_FILE", env["PIP_CERT"])
    command: list[str | Path] = [uv, "sync", "--frozen", "--python", system_python()]
    command += ["--project", ROOT]
    command.append("--group=dev" if dev else "--no-dev")
    if not dev and (VENV / "bin" / "pytest").exists():
        command[-1] = "--group=dev"  # a contributor's environment stays whole
    say.run(
        command,
        step=step,
        log=LOGS / "python.log",
        advice="look at the log; when a package cannot be built, python3-dev, gcc, pkg-config and "
        "libvirt-dev must be installed",
        env=env,
    )
    if not PYTHON.exists():
        raise say.StepFailed(f"{PYTHON} is not there after uv sync", f"remove {VENV}, try again")
