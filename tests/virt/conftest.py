"""Fixtures of the virt seam's tests. ``pytest tests/virt --regenerate-golden`` rewrites the golden
files; look at the difference before you commit it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from tests.lab.conftest import lab, tiny_image  # noqa: F401

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = Path("/usr/share/libvirt/schemas")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="rewrite golden/*.xml")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)``: is this what ``golden/name.xml`` says?"""
    regenerate = request.config.getoption("--regenerate-golden", default=False)

    def check(name: str, text: str) -> None:
        file = GOLDEN / f"{name}.xml"
        if regenerate:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        assert file.exists(), f"no {file.name}: run pytest tests/virt --regenerate-golden"
        assert text == file.read_text()

    return check


@pytest.fixture(scope="session")
def schema() -> Callable[[str, str], None]:
    """``schema("domain", text)``: valid against libvirt's own RelaxNG schema of that name."""
    if not SCHEMAS.is_dir():
        pytest.skip("libvirt's schemas are not installed")
    loaded: dict[str, etree.RelaxNG] = {}

    def check(name: str, text: str) -> None:
        if name not in loaded:
            loaded[name] = etree.RelaxNG(etree.parse(str(SCHEMAS / f"{name}.rng")))
        assert loaded[name].validate(etree.fromstring(text)), str(loaded[name].error_log)

    return check


@pytest.fixture(scope="session")
def qcow2_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty qcow2 of 64 MiB, as qemu-img makes it."""
    if shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img here")
    file = tmp_path_factory.mktemp("qcow2") / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "64M"], check=True)
    return file.read_bytes()
