"""``KVMWEB_SCRIPT_NAME``: the prefix is taken off once, and everything that is shown has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvmweb.subpath import SubPath

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import asyncio, json
from kvmweb.asgi import application
from django.conf import settings

async def get(path):
    sent = []
    async def send(message): sent.append(message)
    asked = []
    async def receive():
        if asked: await asyncio.Event().wait()
        asked.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
             "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
             "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": None}
    await application(scope, receive, send)
    headers = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], headers.get("location", "")

print(json.dumps({
    "healthy": [asyncio.run(get(path))[0] for path in ("/kvm/healthz", "/healthz")],
    "sign_in": asyncio.run(get("/kvm/machines/"))[1],
    "static": settings.STATIC_URL,
    "cookies": [settings.SESSION_COOKIE_PATH, settings.CSRF_COOKIE_PATH],
}))
"""


@pytest.mark.parametrize(
    ("prefix", "path", "inside"),
    [
        ("/kvm", "/kvm/ws/live", "/ws/live"),
        ("/kvm/", "/kvm/ws/live", "/ws/live"),
        ("/kvm", "/kvm", "/"),
        ("/kvm", "/ws/live", "/ws/live"),  # the proxy took it off
        ("/kvm", "/kvmweb/x", "/kvmweb/x"),
        (None, "/kvm/x", "/kvm/x"),
    ],
)
async def test_the_prefix_is_taken_off(prefix: str | None, path: str, inside: str) -> None:
    seen: list[Any] = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        seen.extend([scope["path"], scope.get("raw_path")])

    scope = {"type": "websocket", "path": path, "raw_path": path.encode()}
    await SubPath(application, prefix)(scope, None, None)
    assert seen == [inside, inside.encode()]
    assert scope["path"] == path  # the server's own is left alone


def test_links_cookies_and_static_files_follow(tmp_path: Path) -> None:
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
        "KVMWEB_VAR": str(tmp_path),
        "KVMWEB_SECRET_KEY": "below",
        "KVMWEB_SCRIPT_NAME": "/kvm",
    }
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"], cwd=ROOT, env=env, check=True
    )
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["healthy"] == [200, 200]
    assert found["sign_in"].startswith("/kvm/accounts/login/")
    assert found["static"] == "/kvm/static/"
    assert found["cookies"] == ["/kvm", "/kvm"]
