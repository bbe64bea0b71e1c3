"""Every address that answers with HTML, in the dark, on a phone, in Chinese: pages, and dialogs
opened over the machine's page. The addresses are those of ``docs/contributor/access.md``, so that
a new page is looked at as soon as it stands there.

    KVMWEB_GALLERY=/tmp/gallery scripts/test pages -- tests/front/test_every_address.py

leaves a picture of each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.front.test_every_page_is_accessible import (
    PHONE,
    chinese,
    left_in_english,
    too_wide,
    violations,
)
from tests.security import ways_in, ways_world
from tests.security.ways_in import Example, address

__all__ = ["chinese"]

FOLDER = os.environ.get("KVMWEB_GALLERY", "")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# What the frame of every page asks for by itself, and what is no HTML.
FRAME = ("/jump/", "/frame/tray/")
OTHER = ("/healthz", "/readyz", "/metrics", "/file/", "/screen/")
TABS = ("hardware", "snapshots", "backups", "timeline", "access")
_PAGE = re.compile(r"<html\b", re.IGNORECASE)
OPEN = "url => { const b = document.createElement('button'); b.dataset.dialog = url;"
OPEN += " document.querySelector('main').append(b); b.click(); b.remove(); }"


@pytest.fixture
def made(transactional_db: None) -> ways_world.World:
    """In place of the demo: the site whose every address is known."""
    return ways_world.build()


def addresses(world: ways_world.World) -> list[str]:
    _rules, ways = ways_in.read()
    examples = ways_in.examples(world)
    pages = [way for way in ways if way.startswith("GET /") and "/api/" not in way]
    tabs = [f"/machines/{world.vm.uuid}/?tab={tab}" for tab in TABS]
    return tabs + [
        address(world, way, examples.get(way, Example()))
        for way in pages
        if not way.endswith(OTHER) and not way.endswith(FRAME)
    ]


def dialogs_of(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "[data-dialog]:not([aria-disabled=true]):not([data-dialog-base])",
        "all => all.map(one => one.dataset.dialog)",
    )
    return found


def kind_of(path: str) -> str:
    """Alike but for whose they are."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "#", path)


def test_every_address(
    open_page: Callable[..., Page], made: ways_world.World, chinese: dict[str, str]
) -> None:
    options = {"locale": "zh-CN", "viewport": PHONE, "color_scheme": "dark"}
    people = {
        name: open_page(made.people[name], reduced_motion="reduce", **options)
        for name in ("admin", "owner")
    }
    names = {*made.people, "Disc"}  # some are words of ours
    words = {text: said for text, said in chinese.items() if text not in names}
    found: list[str] = []
    waiting: dict[str, str] = {}  # dialogs that a page leads to -> that page

    def look(page: Page, path: str) -> None:
        found.extend(violations(page, path))
        found.extend(too_wide(page, path))
        found.extend(left_in_english(page, path, words))
        if FOLDER:
            Path(FOLDER).mkdir(parents=True, exist_ok=True)
            name = (
                re.sub(r"[^a-z0-9]+", "-", kind_of(path).replace("#", "one").lower()).strip("-")
                or "overview"
            )
            page.screenshot(path=f"{FOLDER}/address-{name}.png", full_page="dialog" not in name)

    for path in addresses(made):
        for page in people.values():
            answer = page.request.get(path)
            if answer.status == 200:
                break
        else:
            pytest.fail(f"{path}: nobody gets it, {answer.status}")
        if not _PAGE.search(answer.text()):
            waiting.setdefault(path, f"/machines/{made.vm.uuid}/")
            continue
        page.goto(path)
        look(page, path)
        for one in dialogs_of(page):
            if kind_of(one) not in {kind_of(path) for path in waiting}:
                waiting[one] = page.url
    admin = people["admin"]
    dialog = admin.locator("#dialog")
    for path, at in waiting.items():
        if admin.url != at:
            admin.goto(at)
        admin.evaluate(OPEN, path)
        expect(dialog, path).to_be_visible()
        look(admin, path)
        admin.keyboard.press("Escape")
        expect(dialog, path).to_be_hidden()
    assert len(waiting) > 20, sorted(waiting)
    assert not found, "\n".join(found)
