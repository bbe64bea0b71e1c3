"""Which site a command speaks to, and as whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvmweb_cli import config
from kvmweb_cli.config import Site
from kvmweb_cli.errors import CommandError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "KVMWEB_VAR": str(tmp_path / "var")}


def write(home: dict[str, str], text: str, mode: int = 0o600) -> Path:
    path = Path(home["HOME"]) / ".config" / "kvmweb" / "config"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


FILE = "[kvmweb]\nurl = https://kvm.example.org/\ntoken = kvmw_100%secret\n"


def test_nothing_is_known(home: dict[str, str]) -> None:
    with pytest.raises(CommandError, match="No site is known"):
        config.find(home)


def test_the_environment_comes_first_then_the_file_then_up(home: dict[str, str]) -> None:
    up = Path(home["KVMWEB_VAR"]) / "up.json"
    up.parent.mkdir()
    up.write_text(json.dumps({"url": "http://127.0.0.1:8000", "token": "kvmw_up"}))
    assert config.find(home) == Site("http://127.0.0.1:8000", "kvmw_up")
    write(home, FILE)
    assert config.find(home) == Site("https://kvm.example.org", "kvmw_100%secret")
    said = {"KVMWEB_URL": "http://other.test", "KVMWEB_TOKEN": "kvmw_env"}
    assert config.find(home | said) == Site("http://other.test", "kvmw_env")


def test_a_file_that_others_may_read_is_refused(home: dict[str, str]) -> None:
    write(home, FILE, 0o644)
    with pytest.raises(CommandError, match="chmod 600"):
        config.find(home)


@pytest.mark.parametrize(
    "text", ["", "url = x", "[kvmweb]\nurl = ftp://x\ntoken = y", "[kvmweb]\nurl = https://x.test"]
)
def test_a_file_that_is_not_right_says_so(home: dict[str, str], text: str) -> None:
    write(home, text)
    with pytest.raises(CommandError, match=r"not right|address of a site|no token"):
        config.find(home)
