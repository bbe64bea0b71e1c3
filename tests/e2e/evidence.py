"""What a failed test leaves in ``test-results/<test>``: screens, consoles, domains, logs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from playwright.sync_api import BrowserContext, Page
from playwright.sync_api import Error as PlaywrightError

from tests.lab.conftest import ROOT, RunningLab
from tests.stack import Stack

RESULTS = Path(os.environ.get("KVMWEB_TEST_RESULTS", ROOT / "test-results"))
LOG_LINES = 200


def folder_of(node_id: str) -> Path:
    return RESULTS / re.sub(r"[^\w.-]+", "_", node_id)


def forget(node_id: str) -> None:
    shutil.rmtree(folder_of(node_id), ignore_errors=True)


def keep(
    node_id: str,
    *,
    contexts: Iterable[BrowserContext],
    messages: Iterable[str],
    stack: Stack | None,
    lab: RunningLab | None,
) -> Path:
    folder = folder_of(node_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page-console.txt").write_text("\n".join(messages) + "\n")
    for number, page in enumerate(page for context in contexts for page in context.pages):
        _keep_page(folder, number, page)
    if stack is not None:
        (folder / "site.log").write_text(stack.tail())
    if lab is not None:
        for host in lab.hosts:
            _keep_host(folder, lab, host.name)
    return folder


def _keep_page(folder: Path, number: int, page: Page) -> None:
    try:
        page.screenshot(path=folder / f"page-{number}.png")
        (folder / f"page-{number}.html").write_text(f"<!-- {page.url} -->\n{page.content()}")
    except PlaywrightError as error:  # a page that has gone tells nothing
        (folder / f"page-{number}.txt").write_text(str(error))


def _keep_host(folder: Path, lab: RunningLab, host: str) -> None:
    domains = lab.run("virsh", host, "-q", "list", "--all", "--name", check=False).stdout.split()
    for name in domains:
        xml = lab.run("virsh", host, "dumpxml", name, check=False).stdout
        (folder / f"{host}-{name}.xml").write_text(xml)
        script = f'tail -n {LOG_LINES} "/var/log/libvirt/qemu/$0.log"'
        log = lab.exec(host, "sh", "-c", script, name, check=False)
        (folder / f"{host}-{name}.qemu.log").write_text(log.stdout + log.stderr)
