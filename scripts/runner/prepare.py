"""Everything that the site's rows and files need before it starts, in one Django process.

``up`` runs this with the site's own Python (``python scripts/runner/prepare.py``, a plan as JSON
on the standard input) and reads JSON lines: ``{"doing": words}`` as it goes, ``{"done": ...}`` at
the end. One process, since starting Django costs more than all that is done in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    plan = json.load(sys.stdin)
    sys.path[0] = str(ROOT)
    os.chdir(ROOT)

    import django

    django.setup()
    tell(doing="database")
    command("migrate", interactive=False)
    tell(doing="texts and static files")
    _texts()
    _static_files()
    tell(doing="admin")
    token = _admin(plan["admin"], plan["password"], plan["token"])
    command("add_default_flavors")
    tell(doing="hosts")
    command("site_key")
    for host in plan["hosts"]:
        command("add_host", **host)
    if plan["image"]:
        tell(doing="first image")
        command("add_image", **plan["image"] | {"file": Path(plan["image"]["file"])})
    _hear_the_workers()
    tell(done={"token": token})


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def command(name: str, /, *words: str, **options: Any) -> str:
    import io

    from django.core.management import call_command

    out = io.StringIO()
    call_command(name, *words, stdout=out, stderr=sys.stderr, **options)
    return out.getvalue().strip()


def _texts() -> None:
    for catalogue in ROOT.glob("**/locale/*/LC_MESSAGES/*.po"):
        compiled = catalogue.with_suffix(".mo")
        old = not compiled.exists() or compiled.stat().st_mtime < catalogue.stat().st_mtime
        if old and ".venv" not in catalogue.parts:
            command("compilemessages", ignore_patterns=[".venv"], verbosity=0)
            return


def _static_files() -> None:
    """Collect them where one has changed since the last time."""
    from django.conf import settings

    stamp = settings.VAR_DIR / "static.stamp"
    seen = _fingerprint([ROOT / "static", ROOT / "uv.lock"])
    if settings.STATIC_ROOT.is_dir() and stamp.exists() and stamp.read_text() == seen:
        return
    command("collectstatic", interactive=False, verbosity=0)
    stamp.write_text(seen)


def _fingerprint(places: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for place in places:
        for path in sorted([place, *place.rglob("*")]):
            if path.is_file():
                facts = path.stat()
                found.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _admin(name: str, password: str, token: str) -> str:
    """Make the admin where there is none; returns an API token that works."""
    from accounts import tokens

    os.environ["KVMWEB_ADMIN_PASSWORD"] = password
    command("kvmweb_init", admin=name)
    if token and tokens.authenticate(token):
        return token
    return command("create_token", name, name="scripts/up", scopes="read,write,admin").split()[-1]


def _hear_the_workers() -> None:
    """Forget the heartbeats of an earlier run, and have the first worker give one at once."""
    from django.core.cache import cache
    from kombu.exceptions import OperationalError

    from accounts import pulse
    from kvmweb.celery import app

    cache.delete_many([f"pulse:{process}" for process in pulse.PROCESSES])
    try:
        app.send_task("jobs.reconcile", queue="quick", expires=300)
    except OperationalError as error:
        print(f"no broker yet: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
