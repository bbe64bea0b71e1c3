"""Every verb of the audit record is called something that a person can read."""

from __future__ import annotations

import re
from pathlib import Path

from accounts import audit_words

ROOT = Path(__file__).resolve().parents[2]
RECORDED = re.compile(r'audit\.record\(\s*[^,()]+,\s*"([^"]+)"')
APPS = ("accounts", "hosts", "jobs", "kvmweb", "vms")


def test_each_has_words() -> None:
    verbs = {
        verb
        for app in APPS
        for source in (ROOT / app).rglob("*.py")
        for verb in RECORDED.findall(source.read_text())
    }
    verbs |= {f"console.control_{how}" for how in ("given", "released", "taken")}
    assert len(verbs) > 80
    assert not sorted(verb for verb in verbs if audit_words.of(verb) == verb)
