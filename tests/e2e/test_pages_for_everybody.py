"""Pages for everybody: by keyboard alone, on a phone, in the dark, in Chinese, read aloud.

``tests/front`` looks at the pages of machines; here are all others, on a site with real hosts.
"""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest
from tests.e2e.site import People, Site, is_live

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

PHONE = {"width": 360, "height": 740}
MADE_MS = 120_000
MOST_TABS = 60
PATHS = (
    "/",
    "/machines/",
    "/machines/new/",
    "/machines/{vm}/",
    "/machines/{vm}/console/",
    "/activity/",
    "/activity/{job}/",
    "/images/",
    "/profile/",
    "/admin/images/",
    "/admin/flavors/",
    "/admin/users/",
    "/admin/users/new/",
    "/admin/teams/",
    "/admin/limits/",
    "/admin/hosts/",
    "/admin/hosts/{host}/",
)
# Both themes and both languages, on every page.
LOOKS = (
    pytest.param("en-US", "light", id="light-english"),
    pytest.param("zh-CN", "dark", id="dark-chinese"),
)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def guest(site: Site) -> Guest:
    return site.create("everybody")


@pytest.fixture
def paths(site: Site, guest: Guest) -> list[str]:
    job = site.stack.api("GET", "/jobs", user="admin")["items"][0]["id"]
    host = site.stack.api("GET", "/hosts", user="admin")["items"][0]["id"]
    return [path.format(vm=guest.uuid, job=job, host=host) for path in PATHS]


@pytest.mark.parametrize(("locale", "scheme"), LOOKS)
def test_axe_finds_nothing_serious_on_any_page(
    people: People, paths: list[str], locale: str, scheme: str
) -> None:
    page = people.page("admin", locale=locale, color_scheme=scheme)
    found = []
    for path in paths:
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        expect(page.locator("html")).to_have_attribute(
            "lang", "zh-hans" if locale == "zh-CN" else "en"
        )
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in SERIOUS:
                where = [node["html"][:160] for node in violation["nodes"]]
                found.append(f"{path}: {violation['id']}: {where}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("locale", "scheme"), LOOKS)
def test_every_page_fits_a_phone(
    people: People, paths: list[str], locale: str, scheme: str
) -> None:
    page = people.page("admin", locale=locale, color_scheme=scheme, viewport=PHONE)
    wide = {}
    for path in paths:
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            wide[path] = width
    assert not wide, f"wider than {PHONE['width']} px: {wide}"


def test_a_machine_is_made_with_the_keyboard_alone(site: Site, people: People) -> None:
    page = people.page("owner")
    page.keyboard.press("c")
    page.wait_for_url("**/machines/new/")
    _tab_to(page, "input[name=image]")
    _arrow_to(page, "Tiny Linux")
    _tab_to(page, "input[name=flavor]")
    _arrow_to(page, "XS")
    _tab_to(page, "#id_pasted_key")
    page.keyboard.insert_text(site.public_key)
    _tab_to(page, "#id_name")
    page.keyboard.press("Control+a")
    page.keyboard.type("by-keys")
    _tab_to(page, "#create-button")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/"))
    expect(page.locator("h1")).to_have_text("by-keys")
    state = page.locator(".machine-head .state").first
    expect(state).to_have_text("Running", timeout=MADE_MS)
    is_live(page)
    # A verb from the menu, and a dialog, the same way.
    _tab_to(page, "#machine-menu-button")
    page.keyboard.press("Enter")
    expect(page.locator("#machine-menu")).to_be_visible()
    _arrow_to_item(page, "Suspend")
    page.keyboard.press("Enter")
    expect(state).to_have_text("Paused", timeout=MADE_MS)
    _tab_to(page, "#machine-menu-button")
    page.keyboard.press("Enter")
    _arrow_to_item(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm-name")).to_be_focused()
    page.keyboard.type("by-keys")
    page.keyboard.press("Enter")
    page.wait_for_url("**/machines/")


def _tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is there: what cannot be reached, fails."""
    for _ in range(MOST_TABS):
        if page.evaluate("s => document.activeElement?.matches(s) ?? false", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is not reached with {MOST_TABS} Tabs")


def _arrow_to(page: Page, text: str) -> None:
    """Among radio cards: the arrow keys choose."""
    script = """text => document.activeElement.checked
        && document.activeElement.closest("label").textContent.includes(text)"""
    for _ in range(MOST_TABS):
        if page.evaluate(script, text):
            return
        page.keyboard.press("ArrowRight")
    raise AssertionError(f"no choice {text}")


def _arrow_to_item(page: Page, text: str) -> None:
    script = "text => document.activeElement.textContent.trim().startsWith(text)"
    for _ in range(MOST_TABS):
        if page.evaluate(script, text):
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"no item {text}")
