"""The key with which the site reaches hosts by SSH: made once, private, printed as one line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.core.management import call_command

from accounts import sshkeys


def site_key() -> str:
    out = io.StringIO()
    call_command("site_key", stdout=out)
    return out.getvalue().strip()


def test_it_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMWEB_VAR", str(tmp_path))
    first = site_key()
    assert sshkeys.parse(first).type == "ssh-ed25519"
    path = tmp_path / "ssh" / "id_ed25519"
    assert path.stat().st_mode & 0o777 == 0o600
    assert site_key() == first
