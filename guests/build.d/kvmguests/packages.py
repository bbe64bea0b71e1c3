"""Debian and Ubuntu packages: which are missing, which version is there, what is inside."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from .shell import BuildError, run, say

LIST = Path(__file__).resolve().parents[2] / "packages"


def require() -> None:
    """Raise BuildError with the command to type when something of the list is missing."""
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        raise BuildError("Guests are built on Debian or Ubuntu: dpkg and apt-get are not here.")
    missing = [name for name in wanted() if installed_version(name) is None]
    if missing:
        raise BuildError(
            f"These packages are missing: {' '.join(missing)}\n"
            f"Install them: apt-get install --no-install-recommends {' '.join(missing)}"
        )


def wanted() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def installed_version(name: str) -> str | None:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name],
        capture_output=True,
        text=True,
        check=False,
    )
    status, _, version = done.stdout.partition(" ")
    return version if status == "installed" else None


def candidate_version(name: str) -> str:
    """What apt would download now. Raises BuildError when apt does not know the package."""
    found = re.search(r"Candidate: (\S+)", run(["apt-cache", "policy", name]).decode())
    if found is None or found[1] == "(none)":
        raise BuildError(f"apt knows no package {name}. Run `apt-get update`, then try again.")
    return found[1]


def dependencies(name: str, pattern: str) -> list[str]:
    """Those direct dependencies of the package that match."""
    text = run(["apt-cache", "depends", "--important", name]).decode()
    found = re.findall(r"Depends: (\S+)", text)
    return [each for each in found if re.match(pattern, each)]


def unpack(names: list[str], into: Path) -> None:
    """Download the packages and unpack their files; nothing is installed."""
    downloads = into.parent / "packages"
    downloads.mkdir(parents=True, exist_ok=True)
    say(f"Downloading {' '.join(names)}")
    try:
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *names], cwd=downloads)
    except BuildError as error:
        raise BuildError(
            f"{error}\nIs this machine online? `apt-get update` may be needed first."
        ) from error
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg-deb", "-x", package, into])
