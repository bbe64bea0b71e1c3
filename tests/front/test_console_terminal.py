"""The serial line on the console's page: bytes, a flood, escape sequences, search, who types."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import CDPSession, Locator, Page, expect

from tests.front import seed
from tests.front.consoles import WATCH_FRAMES, Console, Open, eventually, open_serial, terminal_says
from vms.consoles.serial.viewer import WINDOW_BYTES

pytestmark = pytest.mark.browser

TITLE = "\x1b]0;pwned\x07\x1b]2;pwned\x07"
CLIPBOARD = "\x1b]52;c;cHduZWQ=\x07"
FLOOD_S = float(os.environ.get("KVMWEB_FLOOD_S", "3"))
FLOOD = b"flood\r\n" * 9362  # a frame as large as the hub's
FRAME_MS, CLICK_MS = 500, 2000
HEAP_GROWS_MIB = 100  # 10,000 lines to scroll back
HIDDEN_LINK = "\x1b]8;;https://evil.example/\x07click\x1b]8;;\x07"


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
