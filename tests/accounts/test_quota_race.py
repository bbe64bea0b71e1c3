"""Forty at once against a limit of ten: exactly ten get in, on both databases, and nobody sees
a database error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers

SCRIPT = Path(__file__).with_name("quota_race.py")
PROCESSES = 4  # with ten threads each


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'race.sqlite3'}"
        return
    if servers.find_postgres() is None:
        pytest.skip("PostgreSQL is not installed")
    with servers.postgres().database() as url:
        yield url


def test_forty_ask_ten_get(database_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(PROCESSES)],
        env=dict(
            os.environ,
            KVMWEB_DATABASE_URL=database_url,
            KVMWEB_VAR=str(tmp_path),
            KVMWEB_SECRET_KEY="race",
            DJANGO_SETTINGS_MODULE="kvmweb.settings.base",
        ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["vendor"] in database_url.replace("postgres:", "postgresql:")
    assert found["told"] == {"allocated": 10, "refused:1": 30}
    assert found["allocated"] == 10
