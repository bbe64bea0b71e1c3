"""Every code that the product raises has words for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from accounts import messages

ROOT = Path(__file__).parents[2]
ERRORS = {
    "DomainError",
    "NotFound",
    "Forbidden",
    "Invalid",
    "Conflict",
    "Busy",
    "QuotaExceeded",
    "TooMany",
    "Unavailable",
}


def raised(path: Path) -> list[tuple[int, str]]:
    """Codes written out at the call of an error class, and those of its ``fields``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in ERRORS:
            continue
        fields = [k.value for k in node.keywords if k.arg == "fields"]
        values = [v for d in fields if isinstance(d, ast.Dict) for v in d.values]
        found += [
            (node.lineno, value.value)
            for value in [*node.args[:1], *values]
            if isinstance(value, ast.Constant) and isinstance(value.value, str)
        ]
    return found


@pytest.mark.parametrize("app", ["accounts", "jobs", "hosts", "vms", "kvmweb"])
def test_every_code_has_a_message(app: str) -> None:
    missing = {
        f"{path.relative_to(ROOT)}:{line}: {code}"
        for path in (ROOT / app).rglob("*.py")
        for line, code in raised(path)
        if not messages.is_known(code)
    }
    assert not missing


def test_an_unknown_code_does_not_hide_the_error() -> None:
    assert "no.such.code" in messages.text("no.such.code")


def test_a_missing_parameter_does_not_hide_the_error() -> None:
    assert "?" in messages.text("user.unknown", {})


def test_every_message_can_be_shown() -> None:
    for code in messages.codes():
        if code != "quota.exceeded":
            assert messages.text(code, {}), code
