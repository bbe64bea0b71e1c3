"""A guest whose display driver takes the size of the window of who has control, and of nobody else;
the page says so where a guest cannot."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.carriers import Rfb, Ticket
from tests.e2e.guests import Guest
from tests.e2e.screen import Screen
from tests.e2e.site import PATIENCE_MS, VIEWER, People, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

IMAGE = "Display driver"  # no part of another image's name: tests choose by it
# Its text console has the pixels that it began with: 1280 x 800 at most.
WINDOWS = ({"width": 1100, "height": 760}, {"width": 800, "height": 600})
FORWARDED = 4
FOLLOWS = """() => {
  const canvas = document.querySelector("#screen canvas");
  const { clientWidth, clientHeight } = document.querySelector("#screen");
  const near = (one, other) => Math.abs(one - other) < 16;
  return near(canvas.width, clientWidth) && near(canvas.height, clientHeight);
}"""
SIZE = """() => {
  const { width, height } = document.querySelector("#screen canvas");
  return [width, height];
}"""


@pytest.fixture(scope="module")
def image(site: Site, display_image: Path) -> str:
    words = ["--file", str(display_image), "--name", IMAGE, "--os-id", "tiny"]
    site.manage("add_image", *words, "--default-user", "tiny", "--publish")
    return IMAGE


def connected(people: People, guest: Guest, name: str, **options: object) -> Page:
    page = people.page(name, f"/machines/{guest.uuid}/console/", **options)
    Screen(page).wait_connected()
    return page


def let_it_follow(page: Page) -> None:
    page.click("#view-button")
    page.get_by_label("The guest follows the window").check()
    page.keyboard.press("Escape")


def test_it_follows_the_window_of_who_has_control(site: Site, people: People, image: str) -> None:
    guest = site.create(f"sized-{uuid4().hex[:4]}", image=image, memory_mib=256)
    mine = connected(people, guest, "owner", viewport=WINDOWS[0])
    let_it_follow(mine)
    for window in WINDOWS:
        mine.set_viewport_size(window)  # type: ignore[arg-type]
        mine.wait_for_function(FOLLOWS, timeout=PATIENCE_MS)
    size = mine.evaluate(SIZE)

    theirs = connected(people, guest, VIEWER, viewport={"width": 1000, "height": 700})
    let_it_follow(theirs)
    expect(theirs.locator("#strip-text")).to_contain_text("window of who has control")
    assert theirs.evaluate(SIZE) == size
    looking = Rfb(Ticket.ask(theirs.context, site.stack.url, guest.uuid))
    looking.hear_sizes()
    looking.ask_size(640, 480)
    looking.wait_update()
    looking.close()
    # The same from who has control is answered, and what the viewer asked for has left no trace.
    asking = Rfb(Ticket.ask(mine.context, site.stack.url, guest.uuid))
    assert mine.evaluate(SIZE) == size
    asking.hear_sizes()
    assert asking.answer_to_size(720, 480) == FORWARDED
    asking.close()
    for page in (mine, theirs):
        page.wait_for_function(f"() => ({SIZE})()[0] === 720", timeout=PATIENCE_MS)
    site.stack.wait_final(site.stack.delete(guest.uuid))
