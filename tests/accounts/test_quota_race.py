"""Forty at once against a limit of ten: exactly ten get in, on both databases, and nobody sees
a database error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import servers

SCRIPT = Path(__file__).with_name("quota_race.py")
PROCESSES = 4  # with ten threads each
SERVERS = 3
Told = tuple[str, int, dict[str, Any]]  # what was asked, the status, the answer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database with our tables, to copy from: making them takes longer than a race."""
    folder = tmp_path_factory.mktemp("migrated")
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'race.sqlite3'}"
        manage_migrate(url, folder)
        yield url
        return
    if servers.find_postgres() is None:
        pytest.skip("PostgreSQL is not installed")
    with servers.postgres().database() as url:
        manage_migrate(url, folder)
        yield url


@pytest.fixture
def database_url(migrated_url: str, tmp_path: Path) -> Iterator[str]:
    if migrated_url.startswith("sqlite:"):
        copied = shutil.copy(migrated_url.removeprefix("sqlite:///"), tmp_path)
        yield f"sqlite:///{copied}"
        return
    with servers.postgres().database(template=migrated_url.rpartition("/")[2]) as url:
        yield url


def manage_migrate(database_url: str, folder: Path) -> None:
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"],
        cwd=servers.ROOT,
        env=environment(database_url, folder),
        timeout=240,
        check=True,
    )


def environment(database_url: str, folder: Path) -> dict[str, str]:
    return dict(
        os.environ,
        KVMWEB_DATABASE_URL=database_url,
        KVMWEB_VAR=str(folder),
        KVMWEB_SECRET_KEY="race",
        DJANGO_SETTINGS_MODULE="kvmweb.settings.base",
    )


def script(*words: str, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def race(what: str, database_url: str, tmp_path: Path) -> dict[str, Any]:
    found = script(str(PROCESSES), what, env=environment(database_url, tmp_path))
    assert found["vendor"] in database_url.replace("postgres:", "postgresql:")
    return found


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address and its environment: the web server as in production, several processes of it,
    on the database and a Redis. No worker takes what they enqueue."""
    broker, port = servers.Redis(tmp_path / "redis"), free_port()
    env = environment(database_url, tmp_path) | {"KVMWEB_API_RATE_PER_MINUTE": "0"}
    argv = ["-m", "uvicorn", "kvmweb.asgi:application", "--loop=uvloop", "--no-access-log"]
    argv += [f"--port={port}", f"--workers={SERVERS}"]
    with contextlib.ExitStack() as ends:
        broker.start()
        ends.callback(broker.stop)
        env["KVMWEB_REDIS_URL"] = broker.url
        log = tmp_path / "web.log"
        web = servers.Process(*argv, env=env, log=log)
        ends.callback(web.stop)
        servers.wait_for(
            lambda: log.read_text().count("Application startup complete") == SERVERS,
            "every process answers",
            timeout_s=90,
        )
        yield f"http://127.0.0.1:{port}", env


def at_once(what: str, site: tuple[str, dict[str, str]]) -> tuple[list[Told], dict[str, Any]]:
    """What each of forty clients was told, and what is left."""
    url, env = site
    seeded = script("seed", what, env=env)
    gate = threading.Barrier(len(seeded["asks"]))

    def send(asked: list[str]) -> Told:
        word, method, path, body = asked
        headers = {"Authorization": f"Bearer {seeded['token']}", "Content-Type": "application/json"}
        with httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=60) as client:
            gate.wait(timeout=60)
            answer = client.request(method, path, content=body)
        return word, answer.status_code, answer.json()

    with ThreadPoolExecutor(len(seeded["asks"])) as pool:
        told = list(pool.map(send, seeded["asks"]))
    return told, script("left", env=env)


def summary(told: list[Told]) -> dict[str, int]:
    """202, or the limit that refused it."""
    words: Counter[str] = Counter()
    for word, status, body in told:
        code = "" if status == 202 else f":{body['code']}:{body['params'].get('resource')}"
        words[f"{word} {status}{code}"] += 1
    return dict(words)


def test_forty_ask_ten_get(database_url: str, tmp_path: Path) -> None:
    found = race("machines", database_url, tmp_path)
    assert found["told"] == {"allocated": 10, "refused:1": 30}
    assert found["allocated"]["machines"] == 10


def test_forty_creates_over_http(site: tuple[str, dict[str, str]]) -> None:
    """Several processes of the web server: ten get in, thirty are told why and where to ask."""
    told, left = at_once("creates", site)
    assert summary(told) == {"create 202": 10, "create 403:quota.exceeded:machines": 30}
    for _word, status, body in told:
        if status != 202:
            assert (body["params"]["hard"], body["params"]["missing"]) == (10, 1)
            assert "/requests/new/?" in body["request_url"]
            assert "10" in body["detail"]
    assert (left["machines"], left["jobs"], left["allocated"]["machines"]) == (10, 10, 10)
    assert left["differences"] == []


def test_creates_starts_resizes_and_restores_over_http(site: tuple[str, dict[str, str]]) -> None:
    """As much as fits, the others told which limit."""
    told, left = at_once("growth", site)
    assert summary(told) == {
        "grow 202": 12,
        "grow 403:quota.exceeded:vcpus": 20,
        "start 202": 4,
        "start 403:quota.exceeded:running_vcpus": 4,
    }
    assert left["allocated"]["vcpus"] == 28
    assert left["allocated"]["running_vcpus"] == 4
    made = sum(status == 202 and body["job"]["kind"] == "vm.create" for _, status, body in told)
    assert (left["machines"], left["jobs"]) == (24 + made, 16), "nothing is half made"
    assert left["differences"] == []


def test_approved_twice_and_withdrawn_at_once(database_url: str, tmp_path: Path) -> None:
    found = race("decide", database_url, tmp_path)
    assert found["told"] == {"done": 12, "told why": 24}
    assert found["approved"] + found["withdrawn"] == 12
    assert found["grants"] == found["approved"], "nothing is granted twice"
