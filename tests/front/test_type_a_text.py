"""The console that types: the modules that need no browser, in Node; the tables, against xkb."""

from __future__ import annotations

import ctypes.util
import json
import re
import shutil
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = ROOT / "static/kvmweb/console"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_layouts_press_the_right_keys_and_recordings_are_read(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for name in ("layouts.js", "typing.js", "recordings.js"):
        shutil.copy(CONSOLE / name, tmp_path)
    for test in (ROOT / "tests/front/js").glob("*.test.js"):
        shutil.copy(test, tmp_path)
    done = subprocess.run(
        ["node", "--test"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(
    ctypes.util.find_library("xkbcommon") is None
    or not Path("/usr/share/X11/xkb/symbols/jp").exists(),
    reason="needs libxkbcommon and xkb-data",
)
def test_the_tables_are_what_xkb_says() -> None:
    """ASCII only: the rest differs a little between the versions of xkb-data."""
    loader = SourceFileLoader("keyboards", str(ROOT / "scripts/keyboards"))
    keyboards = ModuleType("keyboards")
    keyboards.__file__ = loader.path
    loader.exec_module(keyboards)
    xkb = keyboards.Xkb()
    name, compared = "", 0
    for line in (CONSOLE / "layouts.js").read_text().splitlines():
        if found := re.fullmatch(r"  (\w+): \{", line):
            name = found[1]
            truth = keyboards.layout(xkb, name)
        elif found := re.fullmatch(r"    (\w+): (\[.*\]),", line):
            ours = json.loads(found[2])
            for level, given in enumerate(ours):
                if given.isascii():
                    assert truth[found[1]][level] == given, (name, found[1], level)
                    compared += 1
    assert compared > 7 * 95
