"""The console's page on a made-up machine: both kinds, what it says, keys, pasting, ways out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Locator, Page, Route, expect

from tests.front import seed
from tests.front.conftest import Site
from tests.front.consoles import WATCH_FRAMES, Console
from tests.front.test_every_page_is_accessible import PHONE, too_wide, violations
from vms.consoles.serial.viewer import WINDOW_BYTES
from vms.models import VM

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
# As RFB carries them: of those with the prefix E0 the highest bit.
SHIFT, ALTGR, ENTER, DELETE, PRINT = 0x2A, 0xB8, 0x1C, 0xD3, 0x54
TITLE = "\x1b]0;pwned\x07\x1b]2;pwned\x07"
CLIPBOARD = "\x1b]52;c;cHduZWQ=\x07"
FLOOD_S = float(os.environ.get("KVMWEB_FLOOD_S", "3"))
FLOOD = b"flood\r\n" * 9362  # a frame as large as the hub's
FRAME_MS, CLICK_MS = 500, 2000
HEAP_GROWS_MIB = 100  # 10,000 lines to scroll back
HIDDEN_LINK = "\x1b]8;;https://evil.example/\x07click\x1b]8;;\x07"


@pytest.fixture
def console(chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Answers for the machine on every page that this test opens."""
    made = Console()
    new_context = chromium.new_context

    def watched(**options: Any) -> BrowserContext:
        context = new_context(**options)
        made.watch(context)
        return context

    monkeypatch.setattr(chromium, "new_context", watched)
    return made


def is_connected(page: Page, kind: str = "vnc") -> None:
    expect(page.locator(f"html[data-console=connected][data-console-kind={kind}]")).to_have_count(1)


def eventually(page: Page, check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 5
    while not check():
        assert time.monotonic() < end, what
        page.wait_for_timeout(30)


def open_console(open_page: Open, made: seed.Demo, vm: VM, **options: Any) -> Page:
    page = open_page(made.member, f"/machines/{vm.uuid}/console/", **options)
    is_connected(page)
    return page


def open_serial(open_page: Open, made: seed.Demo, vm: VM, **options: Any) -> Page:
    page = open_console(open_page, made, vm, **options)
    page.click("#tab-serial")
    is_connected(page, "serial")
    return page


def terminal_says(page: Page, text: str) -> None:
    expect(page.locator("#terminal .xterm-rows")).to_contain_text(text)


# --- the page -----------------------------------------------------------------------------------


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


# --- the screen ---------------------------------------------------------------------------------


def scancodes(console: Console) -> list[int]:
    return [key.scancode for key in console.keys if key.down]


def test_keys_the_menu_and_only_looking(open_page: Open, made: seed.Demo, console: Console) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    page.locator("#screen canvas").focus()
    page.keyboard.press("a")
    eventually(page, lambda: scancodes(console) == [0x1E], "the key")
    console.keys.clear()
    page.click("#keys-button")
    page.click("#send-cad")
    eventually(page, lambda: scancodes(console) == [0x1D, 0x38, DELETE], "Ctrl+Alt+Del")
    console.keys.clear()
    page.click("#keys-button")
    page.get_by_role("button", name="Ctrl+Alt+F2", exact=True).click()
    eventually(page, lambda: scancodes(console) == [0x1D, 0x38, 0x3C], "Ctrl+Alt+F2")
    console.keys.clear()
    page.click("#keys-button")
    page.get_by_role("button", name="S Write the disks").click()
    eventually(page, lambda: scancodes(console) == [0x38, PRINT, 0x1F], "SysRq")
    assert [key.down for key in console.keys] == [True] * 3 + [False] * 3
    console.keys.clear()
    page.click("#view-button")
    page.get_by_label("Only look").check()
    expect(page.locator("#view-only")).to_be_visible()
    assert console.asked[-1] == {"kind": "vnc", "mode": "view"}
    page.keyboard.press("Escape")
    page.locator("#screen canvas").focus()
    page.keyboard.press("b")
    page.wait_for_timeout(100)
    assert not console.keys


def test_the_view_is_as_chosen_and_a_picture_is_saved(
    open_page: Open, made: seed.Demo, console: Console, tmp_path: Path
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    width = "document.querySelector('#screen canvas').getBoundingClientRect().width"
    assert page.evaluate(width) > 640
    page.click("#view-button")
    page.get_by_label("One to one").check()
    page.get_by_label("Always a crosshair").check()
    assert page.evaluate(width) == 640
    with page.expect_download() as download:
        page.click("#screenshot")
    assert download.value.suggested_filename.startswith("web-1-")
    download.value.save_as(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    page.reload()
    is_connected(page)
    assert page.evaluate(width) == 640


def test_it_fills_the_screen_and_comes_back(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    filled = "document.fullscreenElement?.classList.contains('console') ?? false"
    for wanted in (True, False):
        page.click("#full-screen")
        eventually(page, lambda now=wanted: page.evaluate(filled) is now, f"full screen: {wanted}")
        expect(page.locator("#screen canvas")).to_be_focused()  # what is typed goes on to the guest


def test_the_keyboard_alone_gets_in_and_out(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    expect(page.locator("#screen canvas")).to_be_focused()
    expect(page.locator("#how-to-leave")).to_contain_text("Shift F12")
    page.keyboard.press("Tab")  # the guest's
    expect(page.locator("#screen canvas")).to_be_focused()
    page.keyboard.press("Shift+F12")
    expect(page.locator("#tab-vnc")).to_be_focused()
    eventually(page, lambda: not console.keys[-1].down, "no key stays down")
    page.keyboard.press("ArrowRight")
    is_connected(page, "serial")
    expect(page.locator("#tab-serial")).to_be_focused()
    page.locator("#terminal textarea").focus()
    page.keyboard.press("Shift+F12")
    expect(page.locator("#tab-serial")).to_be_focused()
    page.locator("#terminal textarea").focus()
    page.keyboard.press("Control+]")
    page.wait_for_url(f"**/machines/{vm.uuid}/")


def test_the_power_menu_has_the_verbs_their_reasons_and_dialogs(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    page.click("#power-button")
    expect(page.locator("#console-power .why").first).to_be_visible()
    page.get_by_role("button", name="Force off…").click()
    expect(page.locator("#dialog")).to_contain_text("is lost")


# --- pasting ------------------------------------------------------------------------------------


def paste(page: Page, text: str, layout: str) -> None:
    page.click("#open-clipboard")
    page.select_option("#clipboard-layout", layout)
    page.fill("#clipboard-text", text)
    page.click("#clipboard-type")


def test_a_text_is_typed_with_the_keys_of_the_guests_layout(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    paste(page, "z@é\n", "de")
    expect(page.locator("html[data-typing=done]")).to_have_count(1)
    expected = [0x15, ALTGR, 0x10, 0x0D, 0x12, ENTER]
    eventually(page, lambda: scancodes(console) == expected, str(scancodes(console)))
    assert sum(key.down for key in console.keys) * 2 == len(console.keys)
    console.keys.clear()
    paste(page, "A@", "us")
    eventually(page, lambda: scancodes(console) == [SHIFT, 0x1E, SHIFT, 0x03], "us")


def test_what_a_layout_lacks_is_marked_before_it_is_typed(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    page.click("#open-clipboard")
    page.fill("#clipboard-text", "a€b")
    expect(page.locator("#clipboard-preview mark")).to_have_text("€")
    expect(page.locator("#clipboard-notice")).to_contain_text("€")
    page.get_by_role("button", name="Type the rest").click()
    eventually(page, lambda: scancodes(console) == [0x1E, 0x30], "the rest")
    page.click("#open-clipboard")
    page.fill("#clipboard-text", "你好")
    expect(page.locator("#clipboard-type")).to_be_disabled()
    page.fill("#clipboard-text", "for its desktop")
    page.click("#clipboard-send")
    eventually(page, lambda: console.clipboard == ["for its desktop"], "the clipboard")


def test_typing_shows_how_far_it_is_and_can_be_stopped(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    paste(page, "a" * 4000, "us")
    expect(page.locator("#strip-progress")).to_be_visible()
    page.click("#strip-cancel")
    expect(page.locator("html[data-typing=stopped]")).to_have_count(1)
    expect(page.locator("#strip")).to_be_hidden()
    assert 0 < len(console.keys) < 4000
    assert not console.keys[-1].down


# --- the serial line ----------------------------------------------------------------------------


def test_the_line_carries_bytes_and_old_questions_are_not_answered(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    console.history = b"old \x1b[6n\x1b[c question\r\nlogin: "
    vm = seed.machine(made, "web-1")
    page = open_serial(open_page, made, vm)
    terminal_says(page, "old")
    page.wait_for_timeout(150)
    assert console.typed == b""
    page.keyboard.type("root\n")
    eventually(page, lambda: console.typed == b"root\r", "what was typed")
    console.say("Grüße 你好\r\n".encode())
    terminal_says(page, "Grüße 你好")
    size = next(one for one in console.told if one["type"] == "size")
    assert size["cols"] > 60
    eventually(page, lambda: any(one["type"] == "ack" for one in console.told), "acknowledged")
    sent = len(console.history) + len("Grüße 你好\r\n".encode())
    page.wait_for_timeout(250)
    assert sum(one["bytes"] for one in console.told if one["type"] == "ack") == sent


def test_all_that_the_line_said_is_saved(
    open_page: Open, made: seed.Demo, console: Console, tmp_path: Path
) -> None:
    console.history = b"kept: \xff\x00\r\n" * 10_000
    page = open_serial(open_page, made, seed.machine(made, "web-1"))
    page.click("#view-button")
    with page.expect_download() as download:
        page.click("#save-log")
    assert download.value.suggested_filename.endswith(".log")
    download.value.save_as(tmp_path / "line.log")
    assert (tmp_path / "line.log").read_bytes() == console.history
    assert console.asked[-1] == {"kind": "serial", "mode": "view"}


def test_the_page_says_what_happens_to_the_line(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    page = open_serial(open_page, made, seed.machine(made, "web-1"))
    assert console.line is not None
    page.clock.install()
    console.line.send(json.dumps({"type": "line", "state": "waiting", "why": "host"}))
    expect(page.locator("#strip-text")).to_have_text(
        "The machine's host does not answer. Trying again …"
    )
    page.clock.run_for(60_000)  # as long as it is so
    expect(page.locator("#strip-text")).to_be_visible()
    for message, said in (
        ({"type": "line", "state": "waiting", "why": "in_use"}, "Another program on the host"),
        ({"type": "line", "state": "open"}, "The line is open again."),
        ({"type": "dropped", "bytes": 17}, "17 bytes"),
    ):
        console.line.send(json.dumps(message))
        expect(page.locator("#strip-text")).to_contain_text(said)


def test_a_line_as_fast_as_the_page_takes_it_leaves_the_page_responsive(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    """Frames and acknowledgements as the hub has them, from a guest that never waits."""
    console.history = b""
    page = open_serial(open_page, made, seed.machine(made, "web-1"))
    chromium = page.context.new_cdp_session(page)
    chromium.send("Performance.enable")
    before = _heap_mib(chromium)
    page.evaluate(WATCH_FRAMES)
    sent, clicks = 0, []
    end = time.monotonic() + FLOOD_S
    while time.monotonic() < end:
        taken = sum(one["bytes"] for one in console.told if one["type"] == "ack")
        while sent - taken < WINDOW_BYTES:
            console.say(FLOOD)
            sent += len(FLOOD)
        began = time.monotonic()
        page.click("#view-button")
        expect(page.locator("#view-menu")).to_be_visible()
        page.keyboard.press("Escape")
        clicks.append((time.monotonic() - began) * 1000)
    frames = sorted(page.evaluate("window.__frames"))
    slow = frames[int(len(frames) * 0.95)]
    grown = _heap_mib(chromium) - before
    print(  # noqa: T201
        f"{sent / FLOOD_S / (1 << 20):.1f} MiB/s for {FLOOD_S:g} s: a frame each {slow:.0f} ms"
        f" (95 %), {frames[-1]:.0f} ms at worst; a menu in {median(clicks):.0f} ms,"
        f" {max(clicks):.0f} at worst; heap {grown:+.0f} MiB"
    )
    assert sent > 2 * WINDOW_BYTES
    assert slow < FRAME_MS
    assert median(clicks) < CLICK_MS
    assert grown < HEAP_GROWS_MIB


def _heap_mib(chromium: CDPSession) -> float:
    found = chromium.send("Performance.getMetrics")["metrics"]
    (used,) = (one["value"] for one in found if one["name"] == "JSHeapUsedSize")
    return float(used) / (1 << 20)


def test_escape_sequences_of_a_guest_do_nothing_to_the_browser(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_serial(open_page, made, vm, permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('mine')")
    console.say(f"{TITLE}{CLIPBOARD}{HIDDEN_LINK}\x1b]10;?\x07\x1b[21t all of it\r\n".encode())
    terminal_says(page, "all of it")
    page.wait_for_timeout(100)
    assert "pwned" not in page.title()
    assert page.evaluate("navigator.clipboard.readText()") == "mine"
    assert console.typed == b""
    click_at(page, page.get_by_text("click all of it"))
    expect(page.locator("#open-link")).to_be_hidden()


def test_a_link_is_shown_in_full_before_it_is_opened(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    console.history = b""
    vm = seed.machine(made, "web-1")
    page = open_serial(open_page, made, vm)
    console.say(b"https://example.org/a?b=c and javascript:alert(1)\r\n")
    terminal_says(page, "example.org")
    click_at(page, page.locator("#terminal .xterm-screen"))
    expect(page.locator("#open-link-address")).to_have_text("https://example.org/a?b=c")
    go = page.locator("#open-link-go")
    expect(go).to_have_attribute("href", "https://example.org/a?b=c")
    expect(go).to_have_attribute("rel", "noopener noreferrer")


def test_the_terminal_is_searched_and_its_size_is_a_line_to_paste(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_serial(open_page, made, vm, permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("Control+Shift+F")
    page.keyboard.type("boot: 1")
    page.keyboard.press("Enter")
    expect(page.locator("#search-none")).to_have_text("")
    page.fill("#search-text", "nowhere")
    page.keyboard.press("Enter")
    expect(page.locator("#search-none")).to_have_text("Not found")
    page.keyboard.press("Escape")
    expect(page.locator("#terminal textarea")).to_be_focused()
    page.click("#copy-stty")
    line = page.evaluate("navigator.clipboard.readText()")
    size = [one for one in console.told if one["type"] == "size"][-1]
    assert line == f"stty rows {size['rows']} cols {size['cols']}"


def test_a_viewer_of_the_line_types_nothing_until_control_comes(
    open_page: Open, made: seed.Demo, console: Console
) -> None:
    console.mode = "view"
    vm = seed.machine(made, "web-1")
    page = open_serial(open_page, made, vm)
    expect(page.locator("#view-only")).to_be_visible()
    page.locator("#terminal textarea").focus()
    page.keyboard.type("x")
    page.wait_for_timeout(100)
    assert console.typed == b""
    console.tell(type="mode", mode="control")
    expect(page.locator("#view-only")).to_be_hidden()
    page.locator("#terminal textarea").focus()
    page.keyboard.type("y")
    eventually(page, lambda: console.typed == b"y", "with control")


def click_at(page: Page, what: Locator) -> None:
    """Near its beginning, as a mouse does: xterm.js looks where the pointer is."""
    box = what.bounding_box()
    assert box
    for x in (60, 62):
        page.mouse.move(box["x"] + x, box["y"] + 8)
    page.mouse.click(box["x"] + 62, box["y"] + 8)


# --- for everybody ------------------------------------------------------------------------------


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
