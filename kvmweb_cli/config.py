"""Which site, and with which token.

The first that says so: ``KVMWEB_URL`` and ``KVMWEB_TOKEN``; ``~/.config/kvmweb/config``; the site
that ``scripts/up`` started in this checkout (``var/up.json``).
"""

from __future__ import annotations

import configparser
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kvmweb_cli.errors import CommandError

ROOT = Path(__file__).resolve().parents[1]
SECTION = "kvmweb"
HOW = """No site is known. Write ~/.config/kvmweb/config (readable for you alone):

[kvmweb]
url = https://kvm.example.org
token = kvmw_...

or set KVMWEB_URL and KVMWEB_TOKEN. A token is made under Profile, API tokens."""


@dataclass(frozen=True)
class Site:
    url: str  # without a slash at its end
    token: str


def find(environ: dict[str, str]) -> Site:
    """CommandError: none is known, or what is written is not right."""
    if environ.get("KVMWEB_URL"):
        return _site(environ["KVMWEB_URL"], environ.get("KVMWEB_TOKEN", ""), "KVMWEB_TOKEN")
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser())
    folder = Path(home) if environ.get("XDG_CONFIG_HOME") else Path(home) / ".config"
    for found in (_from_file(folder / "kvmweb" / "config"), _from_up(environ)):
        if found is not None:
            return found
    raise CommandError(HOW)


def _from_file(path: Path) -> Site | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CommandError(f"{path} holds your token and others may read it: chmod 600 {path}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        section = parser[SECTION]
        return _site(section.get("url", ""), section.get("token", ""), str(path))
    except (configparser.Error, KeyError) as error:
        raise CommandError(f"{path} is not right.\n\n{HOW}") from error


def _from_up(environ: dict[str, str]) -> Site | None:
    path = Path(environ.get("KVMWEB_VAR", ROOT / "var")) / "up.json"
    try:
        found = json.loads(path.read_text())
        return _site(found["url"], found["token"], str(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _site(url: str, token: str, source: str) -> Site:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CommandError(f"{url!r} ({source}) is not the address of a site.")
    if not token:
        raise CommandError(f"There is no token in {source}. Make one under Profile, API tokens.")
    return Site(url.rstrip("/"), token)


def environment() -> dict[str, str]:
    return dict(os.environ)
