"""One site, one lab and one browser for all tests of this folder: emulation is slow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e import evidence
from tests.e2e.guests import make_key
from tests.e2e.site import People, Site
from tests.front.conftest import ARGUMENTS
from tests.lab.conftest import RunningLab, debian_image, display_image, lab, tiny_image
from tests.stack import Stack, StackImage

__all__ = ["debian_image", "display_image", "lab", "tiny_image"]

GUEST_PATIENCE_S = 5


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("KVMWEB_CHROMIUM", "/usr/bin/chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or None, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def site(
    lab: RunningLab,
    tiny_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("e2e")
    blank = folder / "blank.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(blank), "16M"]
    subprocess.run(create, check=True)
    images = [
        StackImage(path=tiny_image),
        # Nothing to boot: its firmware waits for ever and hears no power button.
        StackImage(path=blank, name="Blank", os_id="none", default_user="anybody"),
    ]
    settings = {
        "KVMWEB_SECRET_KEY": "e2e",  # its own mark on the domains of a shared lab
        "KVMWEB_GUEST_PATIENCE_S": str(GUEST_PATIENCE_S),
        "KVMWEB_PUBLISH_PORTS": "20000-20099",  # who listens there is each test's own business
    }
    hosts = [(host.name, host.socket_path) for host in lab.hosts]
    with Stack(folder / "var", hosts=hosts, images=images, pages=True, settings=settings) as stack:
        made = Site(stack, lab, make_key(folder))
        made.populate()
        yield made
        made.clear()


@pytest.fixture(scope="package")
def signed_in() -> dict[str, Any]:
    """Browsers' cookies by person: each signs in once."""
    return {}


@pytest.fixture
def people(
    chromium: Browser, site: Site, signed_in: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[People]:
    evidence.forget(request.node.nodeid)
    made = People(chromium, site.stack.url, signed_in)
    yield made
    if getattr(request.node, "failed", False):
        kept = evidence.keep(
            request.node.nodeid,
            contexts=made.contexts,
            messages=made.messages,
            stack=site.stack,
            lab=site.lab,
        )
        print(f"kept in {kept}")  # noqa: T201
    made.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        item.failed = True  # type: ignore[attr-defined]
