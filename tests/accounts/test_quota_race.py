"""Forty at once against a limit of ten: exactly ten get in, on both databases, and nobody sees
a database error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers

SCRIPT = Path(__file__).with_name("quota_race.py")
PROCESSES = 4  # with ten threads each


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


def race(what: str, database_url: str, tmp_path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(PROCESSES), what],
        env=environment(database_url, tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["vendor"] in database_url.replace("postgres:", "postgresql:")
    return found


def test_forty_ask_ten_get(database_url: str, tmp_path: Path) -> None:
    found = race("machines", database_url, tmp_path)
    assert found["told"] == {"allocated": 10, "refused:1": 30}
    assert found["allocated"]["machines"] == 10


def test_creates_and_starts_at_once(database_url: str, tmp_path: Path) -> None:
    found = race("mix", database_url, tmp_path)
    assert found["told"] == {
        "create done": 6,
        "create refused:machines": 26,
        "start done": 5,
        "start refused:running_machines": 3,
    }
    assert found["allocated"]["machines"] == 14
    assert found["allocated"]["running_machines"] == 5


def test_creates_starts_resizes_and_restores_at_once(database_url: str, tmp_path: Path) -> None:
    """Through the API, by several processes: as much as fits, the others told which limit."""
    found = race("growth", database_url, tmp_path)
    assert found["told"] == {
        "grow done": 12,
        "grow quota.exceeded:vcpus": 20,
        "start done": 4,
        "start quota.exceeded:running_vcpus": 4,
    }
    assert found["allocated"]["vcpus"] == 28
    assert found["allocated"]["running_vcpus"] == 4


def test_approved_twice_and_withdrawn_at_once(database_url: str, tmp_path: Path) -> None:
    found = race("decide", database_url, tmp_path)
    assert found["told"] == {"done": 12, "told why": 24}
    assert found["approved"] + found["withdrawn"] == 12
    assert found["grants"] == found["approved"], "nothing is granted twice"
