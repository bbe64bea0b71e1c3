"""What docs/contributor/evidence.md names as shown by a test or a benchmark is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def test_each_test_and_benchmark_named_exists() -> None:
    named = NAMED.findall((ROOT / "docs" / "contributor" / "evidence.md").read_text())
    assert len(named) > 60
    for path, test in named:
        file = next(
            (p for p in (ROOT / "tests" / path, ROOT / "benchmarks" / path) if p.exists()), None
        )
        assert file is not None, path
        assert not test or f"def {test}(" in file.read_text(), f"{path}::{test}"
