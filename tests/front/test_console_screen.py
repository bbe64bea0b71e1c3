"""The screen on the console's page: keys, the view, the power menu, a text typed as keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.front import seed
from tests.front.consoles import Console, Open, eventually, is_connected, open_console, scancodes

pytestmark = pytest.mark.browser

# As RFB carries them: of those with the prefix E0 the highest bit.
SHIFT, ALTGR, ENTER, DELETE, PRINT = 0x2A, 0xB8, 0x1C, 0xD3, 0x54


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
