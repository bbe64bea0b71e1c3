"""Who is at a console, inviting, joining and recordings, on a made-up machine: read aloud, by the
keyboard alone, on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from tests.front import seed
from tests.front.conftest import Site
from tests.front.consoles import Console, is_connected
from tests.front.test_every_page_is_accessible import PHONE, too_wide, violations
from tests.front.test_play_a_recording import CAST, SCREEN
from vms.consoles import sharing
from vms.models import VM, ConsoleAsk, ConsoleControl, ConsoleRecording, ConsoleSession

pytestmark = pytest.mark.browser

Open = Callable[..., Page]


@pytest.fixture
def shared(made: seed.Demo) -> VM:
    """The member has control, the admin asks for it, somebody invited looks at the line."""
    vm = seed.machine(made, "web-1")
    for user, kind, mode in (
        (made.member, "vnc", "control"),
        (made.admin, "vnc", "view"),
        (made.outsider, "serial", "view"),
    ):
        ConsoleSession.objects.create(user=user, vm=vm, kind=kind, mode=mode, carrier="asgi")
    ConsoleControl.objects.create(vm=vm, user=made.member, taken_at=timezone.now())
    ConsoleAsk.objects.create(vm=vm, user=made.admin)
    sharing.invite(vm, actor=made.member, mode="control", once=True)
    for kind in ("vnc", "serial"):
        now = timezone.now()
        ConsoleRecording.objects.create(
            vm=vm, kind=kind, started_by=made.member, path=f"{kind}.x", size_bytes=1 << 21,
            started_at=now - timedelta(minutes=3), ended_at=now, duration_ms=180_000,
        )  # fmt: skip
    return vm


def _answer(route: Route, *, data: bytes) -> None:
    route.fulfill(content_type="application/octet-stream", body=data)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    open_page: Open, made: seed.Demo, console: Console, shared: VM, scheme: str
) -> None:
    look = {"color_scheme": scheme, "reduced_motion": "reduce"}
    at = f"/machines/{shared.uuid}/console/"
    page = open_page(made.member, at, **look)
    is_connected(page)
    found = violations(page, "the console")
    page.click("#people-button")
    expect(page.locator("#people-menu")).to_be_visible()
    found += violations(page, "the people")
    page.get_by_role("button", name="Invite").click()
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#invite-link")).to_be_visible()
    found += violations(page, "inviting")
    link = page.locator("#invite-link").inner_text()
    page.keyboard.press("Escape")
    page.click("#people-button")
    page.get_by_role("button", name="Recordings").click()
    expect(page.locator("#dialog")).to_contain_text("Recordings of web-1")
    found += violations(page, "the recordings")
    page.keyboard.press("Escape")
    page.click("#tab-serial")
    is_connected(page, "serial")
    found += violations(page, "the serial line")
    for row in ConsoleRecording.objects.all():
        data = SCREEN if row.kind == "vnc" else CAST
        page.route(f"**/{row.pk}/data", partial(_answer, data=data))
        page.goto(f"/recordings/{row.pk}/")
        expect(page.locator("html[data-player=paused]")).to_have_count(1, timeout=15_000)
        found += violations(page, f"the player, {row.kind}")
    theirs = open_page(made.outsider, link, **look)
    found += violations(theirs, "joining")
    assert not found, "\n".join(found)


def test_the_keyboard_alone_hands_over_and_invites(
    open_page: Open, made: seed.Demo, console: Console, shared: VM
) -> None:
    page = open_page(made.member, f"/machines/{shared.uuid}/console/")
    is_connected(page)
    page.keyboard.press("Shift+F12")  # out of the screen
    page.keyboard.press("Tab")
    expect(page.locator("#people-button")).to_be_focused()
    page.keyboard.press("Enter")
    menu = page.locator("#people-menu")
    expect(menu).to_be_visible()
    expect(page.locator("#people-button")).to_have_attribute("aria-expanded", "true")
    # In: the first thing that can be done; arrows go through all of them, handing over too.
    inside = "() => document.activeElement.closest('#people-menu') !== null"
    page.wait_for_function(inside)
    seen = []
    for _ in range(12):
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        page.keyboard.press("ArrowDown")
    assert {"Hand over", "Put control down", "Invite…", "Recordings"} <= set(seen), seen
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(page.locator("#people-button")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_function(inside)
    while page.evaluate("document.activeElement.textContent.trim()") != "Hand over":
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("has control now")
    assert ConsoleControl.objects.get(vm=shared).user != made.member
    # The dialog takes the focus and gives it back to the button.
    page.locator("#people-button").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(inside)
    while page.evaluate("document.activeElement.textContent.trim()") != "Invite…":
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#dialog")).to_be_visible()
    page.wait_for_function("() => document.activeElement.closest('#dialog') !== null")
    page.locator("#dialog input[name=once]").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#invite-link")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    expect(page.locator("#people-button")).to_be_focused()


def test_it_fits_a_phone_and_stays_current(
    open_page: Open, made: seed.Demo, console: Console, shared: VM, site: Site
) -> None:
    page = open_page(
        made.member, f"/machines/{shared.uuid}/console/", viewport=PHONE, has_touch=True
    )
    is_connected(page)
    page.click("#people-button")
    menu = page.locator("#people-menu")
    assert not too_wide(page, "the people")
    box = menu.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    # Somebody leaves while the menu is open.
    ConsoleSession.objects.filter(user=made.outsider).update(ended_at=timezone.now())
    site.nudge("console", str(shared.uuid), made.member)
    expect(menu.locator("li")).to_have_count(2)
    expect(menu).to_be_visible()
    page.get_by_role("button", name="Invite").click()
    expect(page.locator("#dialog")).to_be_visible()
    assert not too_wide(page, "inviting")


def test_the_list_shows_screens_with_the_state_over_those_that_are_off(
    open_page: Open, made: seed.Demo
) -> None:
    on = seed.machine(made, "on-1")
    off = seed.machine(made, "off-1", observed="shutoff")
    paused = seed.machine(made, "paused-1", observed="paused")
    page = open_page(made.member, "/machines/")
    assert page.locator(".mini-screen").first.is_hidden()
    page.select_option("[data-screens-choice]", "column")
    screen = {vm.name: page.locator(f"#vm-{vm.uuid} .mini-screen") for vm in (on, off, paused)}
    expect(screen["on-1"].locator("img")).to_have_attribute("src", re.compile("^blob:"))
    expect(screen["on-1"]).to_have_text("")
    expect(screen["off-1"]).to_have_text("Stopped")
    expect(screen["off-1"].locator("img")).to_have_count(0)
    expect(screen["paused-1"]).to_have_text("Paused")
    expect(screen["paused-1"].locator("img")).to_have_count(1)
    assert not violations(page, "the list with screens")
