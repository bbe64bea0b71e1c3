"""The console's page on a made-up machine: both kinds in one page, what it says, ways
out, for everybody."""

from __future__ import annotations

import pytest
from playwright.sync_api import Route, expect

from tests.front import seed
from tests.front.conftest import Site
from tests.front.consoles import (
    Console,
    Open,
    eventually,
    is_connected,
    open_console,
    scancodes,
    terminal_says,
)
from tests.front.test_every_page_is_accessible import PHONE, too_wide, violations
from vms.models import VM

pytestmark = pytest.mark.browser

DELETE = 0xD3  # as RFB carries it, of a key with the prefix E0


def test_both_kinds_in_one_page_and_the_choice_is_remembered(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    page.click("#tab-serial")
    is_connected(page, "serial")
    terminal_says(page, "login:")
    expect(page.locator("#screen")).to_be_hidden()
    page.reload()
    is_connected(page, "serial")
    assert [wanted["kind"] for wanted in console.asked] == ["vnc", "serial", "serial"]


def test_beside_the_machine_page_it_stays_open_while_the_page_changes(
    open_page: Open, made: seed.Demo, console: Console, site: Site
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, f"/machines/{vm.uuid}/?tab=console")
    is_connected(page)
    VM.objects.filter(pk=vm.pk).update(observed="paused")
    site.nudge("vm", str(vm.uuid), made.member)
    expect(page.locator(".machine-head")).to_contain_text("Paused")
    expect(page.locator("#notice-resume")).to_be_visible()
    is_connected(page)
    assert len(console.asked) == 1
    # From now on this machine's console opens here.
    page.goto(f"/machines/{vm.uuid}/")
    page.get_by_role("link", name="Console", exact=True).first.click()
    page.wait_for_url("**/?tab=console")


def test_it_is_there_while_the_machine_is_made_and_connects_at_its_first_second(
    open_page: Open, made: seed.Demo, console: Console, site: Site
) -> None:
    vm = seed.machine(made, "web-3", observed="unknown", first_boot="pending")
    seed.at_work(vm, "vm.create", 1, 0.42)
    page = open_page(made.member, f"/machines/{vm.uuid}/console/")
    expect(page.locator("#notice-text")).to_contain_text("being made")
    assert not console.asked
    VM.objects.filter(pk=vm.pk).update(observed="running")
    site.nudge("vm", str(vm.uuid), made.member)
    is_connected(page)


def test_it_says_what_happens_and_comes_back_by_itself(
    open_page: Open, made: seed.Demo, console: Console, site: Site
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    VM.objects.filter(pk=vm.pk).update(host=made.hosts[1])
    made.hosts[1].reach = "up"
    made.hosts[1].save()
    site.nudge("vm", str(vm.uuid), made.member)
    expect(page.locator("#strip")).to_contain_text("Moved to host b")
    assert console.screen
    console.screen.close(code=4410, reason="stopped")
    eventually(page, lambda: len(console.asked) == 2, "another ticket")
    is_connected(page)
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    site.nudge("vm", str(vm.uuid), made.member)
    expect(page.locator("#machine-state")).to_contain_text("Stopped")
    console.screen.close(code=4410, reason="stopped")
    expect(page.locator("#notice-text")).to_contain_text("stopped")
    expect(page.locator("#notice-start")).to_be_visible()
    assert len(console.asked) == 2


def test_control_that_moves_is_said_and_the_page_goes_on_looking(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    expect(page.locator("#open-clipboard")).to_be_enabled()
    assert console.screen
    console.mode = "view"
    console.screen.close(code=4411, reason="handed_over")
    expect(page.locator("#strip")).to_contain_text("Somebody else has control")
    expect(page.locator("#view-only")).to_be_visible()
    expect(page.locator("#open-clipboard")).to_be_disabled()
    console.mode = "control"
    console.screen.close(code=4412, reason="control_given")
    expect(page.locator("#strip")).to_contain_text("You have control")
    expect(page.locator("#open-clipboard")).to_be_enabled()
    assert all("mode" not in wanted for wanted in console.asked)


@pytest.mark.parametrize("code", [4401, 4403, 4404, 4408, 4429])
def test_an_end_that_is_final_says_why_and_does_not_try_again(
    open_page: Open, made: seed.Demo, console: Console, code: int
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    assert console.screen
    console.screen.close(code=code)
    expect(page.locator("#notice")).to_be_visible()
    page.wait_for_timeout(600)
    assert len(console.asked) == 1
    # Another kind is another connection: somebody idle may go on there.
    expect(page.locator("#notice-reconnect")).to_be_visible(visible=code in {4408, 4429})


def test_a_screen_that_cannot_be_had_says_why_and_does_not_try_again(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    assert console.screen
    for reason, said in (
        ("console.next_start", "Shut the machine down and start it"),
        ("console.no_password", "Shut the machine down and start it here"),
        ("console.ssh", "Use the serial console"),
    ):
        asked = len(console.asked)
        console.screen.close(code=4503, reason=reason)
        expect(page.locator("#notice-text")).to_contain_text(said)
        page.click("#notice-reconnect")
        is_connected(page)
        assert len(console.asked) == asked + 1
    console.screen.close(code=4503, reason="console.ssh")
    expect(page.locator("#notice-text")).to_contain_text("Use the serial console")
    # The host is connected by TLS.
    console.refusal = (409, "It carries no screens. Use the serial console.")
    page.click("#notice-reconnect")
    expect(page.locator("#notice-text")).to_have_text(console.refusal[1])
    page.wait_for_timeout(600)
    assert len(console.asked) == 5
    console.refusal = None
    page.click("#tab-serial")
    is_connected(page, "serial")


def test_a_host_that_does_not_answer_is_said_and_tried_again(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    page = open_console(open_page, made, seed.machine(made, "web-1"))
    trying: list[Route] = []  # with another ticket, until it is let go on

    def hold(route: Route) -> None:
        trying.append(route)

    for reason, said in (
        ("console.target", "The machine's host does not answer. Trying again …"),
        ("console.wrong_screen", "Nothing of it is shown. Trying again …"),
    ):
        page.route("**/api/v1/vms/*/console", hold)
        assert console.screen
        console.screen.close(code=4503, reason=reason)
        eventually(page, lambda: bool(trying), "it is tried again")
        expect(page.locator("#notice-text")).to_contain_text(said)
        console._ticket(trying.pop())
        page.unroute("**/api/v1/vms/*/console")
        is_connected(page)
        expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["vnc", "serial"])
def test_axe_finds_nothing_serious(
    open_page: Open, made: seed.Demo, console: Console, scheme: str, kind: str
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm, color_scheme=scheme, reduced_motion="reduce")
    if kind == "serial":
        page.click("#tab-serial")
        is_connected(page, "serial")
    found = violations(page, kind)
    page.click("#view-button")
    found += violations(page, f"{kind}: view")
    page.keyboard.press("Escape")
    page.click("#open-clipboard")
    page.fill("#clipboard-text", "a€")
    found += violations(page, f"{kind}: paste")
    assert not found, "\n".join(found)


def test_on_a_phone_it_fits_and_has_keys(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm, viewport=PHONE, has_touch=True, is_mobile=True)
    assert not too_wide(page, "console")
    page.get_by_role("button", name="Ctrl", exact=True).tap()
    page.get_by_role("button", name="Del", exact=True).tap()
    eventually(page, lambda: scancodes(console) == [0x1D, DELETE], "Ctrl+Del")
    eventually(page, lambda: not any(_held(console)), "nothing is held")
    page.locator("#tab-serial").tap()
    is_connected(page, "serial")
    page.get_by_role("button", name="↑", exact=True).tap()
    eventually(page, lambda: console.typed == b"\x1b[A", "an arrow")
    page.locator("#soft-keyboard").tap()
    page.keyboard.type("q")
    eventually(page, lambda: console.typed.endswith(b"q"), "the soft keyboard")
    assert not too_wide(page, "serial")


def _held(console: Console) -> list[bool]:
    state = {key.scancode: key.down for key in console.keys}
    return list(state.values())
