"""The main thing that the product is for, as one person does it, with a real cloud image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest, make_key
from tests.e2e.keyboards import Keymaps
from tests.e2e.screen import PASTED, Line, Screen, has_typed, paste
from tests.e2e.site import People, Site, follows, is_live, sign_in

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.debian, pytest.mark.timeout(900)]

NAME = "first"
IMAGE = "Debian 12"
STEPS = ["place", "image", "disk", "seed", "define", "boot", "address", "firstboot"]
# Debian's cloud-init takes a minute under emulation on idle cores, several on busy ones.
BOOT_MS = 420_000
FOLLOW_S = 1.0


@pytest.fixture(scope="module")
def debian(site: Site, debian_image: Path) -> None:
    """The cloud image in the catalogue, as an admin publishes it."""
    words = ["--file", str(debian_image), "--name", IMAGE, "--os-id", "debian12"]
    site.manage("add_image", *words, "--default-user", "debian", "--publish")


@pytest.mark.usefixtures("debian")
def test_from_sign_in_to_ssh_and_back(
    site: Site, people: People, tiny_image: Path, tmp_path: Path
) -> None:
    key, keymaps = make_key(tmp_path), Keymaps(tiny_image, tmp_path)
    page = people.watch(people.context().new_page())
    sign_in(page, "owner")
    password = _ask_for_the_machine(page, key)
    guest = site.guest(page.url.rstrip("/").rsplit("/", 1)[-1].split("?")[0], key)

    _watch_it_being_made(page)
    _the_seed_is_gone(guest)
    _log_in_on_the_console(page, guest, password)
    line = Line(people.watch(page.context.new_page()), guest.uuid)
    line.log_in(guest, "debian", password)
    _what_is_pasted_arrives(page, line, guest, keymaps)
    line.page.close()

    said = guest.ssh("hostname; sudo -n id -u; cloud-init status")
    assert said.stdout.split()[:2] == [NAME, "0"], said
    assert "done" in said.stdout

    page.goto(f"/machines/{guest.uuid}/")
    is_live(page)
    for verb, word in (
        ("suspend", "Paused"),
        ("resume", "Running"),
        ("destroy", "Stopped"),
        ("start", "Running"),
    ):
        follows(page, lambda v=verb: guest.virsh(v), word, within_s=FOLLOW_S, what=f"virsh {verb}")
    # It would boot beside the tests after this one.
    site.stack.wait_final(site.stack.delete(guest.uuid))


def _ask_for_the_machine(page: Page, key: Path) -> str:
    """Fill in the form; the password that the site made, which it shows once."""
    page.get_by_role("link", name="Create", exact=False).first.click()
    page.wait_for_url("**/machines/new/")
    page.get_by_role("radio", name=IMAGE).check()
    page.get_by_role("radio", name="S 1 vCPU", exact=False).last.check()
    page.fill("#id_pasted_key", key.with_suffix(".pub").read_text().strip())
    page.get_by_label("Generate").check()
    page.fill("#id_name", NAME)
    expect(page.locator("#name-check .fine")).to_be_visible()
    expect(page.locator("#command-lines")).to_contain_text(f"--name {NAME}")
    page.click("#create-button")
    page.wait_for_url(lambda url: "/machines/new" not in url)
    expect(page.locator("h1")).to_have_text(NAME)
    password = page.locator("#secret .secret").inner_text().strip()
    assert len(password) >= 12
    return password


def _watch_it_being_made(page: Page) -> None:
    expect(page.locator("#step-firstboot.running")).to_be_visible(timeout=BOOT_MS)
    connect = page.locator("[data-copy^='ssh debian@192.168.']").first
    expect(connect).to_be_visible()
    # The card of the making goes away when cloud-init has said that it has finished.
    expect(page.locator("#making-title")).to_have_count(0, timeout=BOOT_MS)
    expect(page.locator(".machine-head .state").first).to_have_text("Running")
    expect(page.locator("#news .notice")).to_have_count(0)
    seen: list[dict[str, Any]] = page.evaluate("window.__seen")
    done, running = _first_seen(seen, "done"), _first_seen(seen, "running")
    # Steps may end together within one look of the page, but never in another order.
    moments = [done[step] for step in STEPS if step in done]
    assert moments == sorted(moments), f"steps were done out of order: {done}"
    assert len(moments) >= len(STEPS) - 1, f"the page showed as done only {done}"
    assert "firstboot" in running, f"the page showed at work only {running}"
    shares = [int(one["share"].rstrip(" %")) for one in seen if one["share"]]
    print(f"shares shown: {sorted(set(shares))}")  # noqa: T201
    assert shares == sorted(shares), "the progress bar went backwards"
    assert len(set(shares)) >= 3, "the progress bar did not move"


def _first_seen(seen: list[dict[str, Any]], state: str) -> dict[str, int]:
    """step -> when it was first shown in this state."""
    found: dict[str, int] = {}
    for one in seen:
        for step, shown in one["steps"].items():
            if shown == state:
                found.setdefault(step, one["at"])
    return found


def _the_seed_is_gone(guest: Guest) -> None:
    guest.wait_idle()
    assert {name for name in guest.volumes() if "seed" in name} == set()
    listed = guest.virsh("domblklist")
    assert "seed" not in listed, listed
    assert guest.facts()["first_boot"] == "done"


def _log_in_on_the_console(page: Page, guest: Guest, password: str) -> None:
    page.get_by_role("link", name="Console").first.click()
    page.wait_for_url("**/console/")
    screen = Screen(page)
    screen.wait_connected()
    guest.wait_ssh(timeout_s=120)
    screen.log_in(guest, "debian", password)
    screen.type("touch /tmp/typed\n")
    guest.wait_file("/tmp/typed", timeout_s=30)


def _what_is_pasted_arrives(page: Page, line: Line, guest: Guest, keymaps: Keymaps) -> None:
    """From the screen's keyboard to a program there, and from it to the serial line."""
    for layout in ("de", "us"):
        keymaps.load(guest, layout)
        line.type("clear\n")
        paste(page, f"head -n 1 >/dev/ttyS0\n{PASTED[layout]}\n", layout)
        has_typed(page)
        line.says(PASTED[layout])
