"""A host is cut off: its machines say so and keep their state, and nobody else notices."""

from __future__ import annotations

import re
import statistics
import time

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest
from tests.e2e.site import People, Site, follows, is_live, state_of

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

# Keepalive: 5 s, 3 times; then the connection counts as broken.
NOTICED_MS = 60_000
MENDED_MS = 60_000
ROUNDS = 15
SLOWER_RATIO = 1.5
SLOWER_S = 0.1
FOLLOW_S = 1.0
LIST = "/machines/"


@pytest.fixture(scope="module")
def both(site: Site) -> tuple[Guest, Guest]:
    """A running machine on each host: (on the one to be cut off, on the other)."""
    other = _create_on(site, "b", closed="a")
    lost = _create_on(site, "a", closed="b")
    return lost, other


def _create_on(site: Site, host: str, *, closed: str) -> Guest:
    site.set_host_mode(closed, "maintenance")
    try:
        guest = site.create(f"reach-{host}")
    finally:
        site.set_host_mode(closed, "active")
    assert guest.host == host
    return guest


def list_time_s(page: Page) -> float:
    """Median time of the list's whole page, asked for as this person."""
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    origin = page.url.split("/machines/")[0]
    taken = []
    with httpx.Client(base_url=origin, cookies=cookies, timeout=30) as client:
        for _ in range(ROUNDS):
            began = time.monotonic()
            assert client.get(LIST).status_code == 200
            taken.append(time.monotonic() - began)
    return statistics.median(taken)


@pytest.mark.parametrize("how", ["hang", "refuse"])
def test_only_its_own_machines_know(
    site: Site, people: People, both: tuple[Guest, Guest], how: str
) -> None:
    lost, other = both
    page = people.page("owner", f"/machines/{lost.uuid}/")
    is_live(page)
    assert state_of(page) == "Running"
    list_page = people.page("owner", LIST)
    is_live(list_page)
    before_s = list_time_s(list_page)
    site.lab.run("cut", "a", "--how", how)
    try:
        notice = page.locator("#news .notice")
        expect(notice).to_contain_text("Host a is unreachable since", timeout=NOTICED_MS)
        expect(notice).to_contain_text("Nothing is lost")
        assert state_of(page) == "Running"
        row = list_page.locator(f"#vm-{lost.uuid}")
        expect(row.locator(".col-host .state-failed")).to_be_visible()
        expect(row).to_contain_text("Running")
        during_s = list_time_s(list_page)
        print(f"{how}: the list takes {before_s:.3f} s before, {during_s:.3f} s now")  # noqa: T201
        assert during_s < max(before_s * SLOWER_RATIO, before_s + SLOWER_S)
        # The other host's machines obey and are followed as ever.
        list_page.goto(f"/machines/{other.uuid}/")
        is_live(list_page)
        for verb, word in (("suspend", "Paused"), ("resume", "Running")):
            follows(
                list_page,
                lambda v=verb: other.virsh(v),
                word,
                within_s=FOLLOW_S,
                what=f"{how}: virsh {verb} on the other host",
            )
        page.click("#machine-menu-button")
        item = page.locator("#machine-menu").get_by_role("button", name=re.compile("^Suspend"))
        expect(item).to_have_attribute("aria-disabled", "true")
        page.keyboard.press("Escape")
    finally:
        site.lab.run("mend", "a")
    expect(page.locator("#news .notice")).to_have_count(0, timeout=MENDED_MS)
    assert state_of(page) == "Running"
    for verb, word in (("suspend", "Paused"), ("resume", "Running")):
        follows(
            page,
            lambda v=verb: lost.virsh(v),
            word,
            within_s=FOLLOW_S,
            what=f"{how}: virsh {verb} after the mend",
        )
