"""The console in the browser, with each carrier: type, only look, come back, be cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.carriers import ENTER, Rfb, Ticket, close_code, websockify
from tests.e2e.guests import Guest
from tests.e2e.screen import HAS_SHELL, KEY_DELAY_MS, Line, Screen
from tests.e2e.site import PATIENCE_MS, VIEWER, People, Site, is_live, sign_in
from tests.e2e.vncviewer import opened_with_remote_viewer, watching
from tests.stack import PASSWORD

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 120
ARRIVES_S = 30
CUT_OFF_S = 1.0
NEVER_REUSED = 4403


@dataclass(frozen=True)
class Carrier:
    name: str
    url: str


@pytest.fixture(scope="module", params=["asgi", "websockify"])
def carrier(site: Site, request: pytest.FixtureRequest) -> Iterator[Carrier]:
    if request.param == "asgi":
        yield Carrier("asgi", site.stack.url)
        return
    with websockify(site.stack) as url:
        yield Carrier("websockify", url)


@pytest.fixture(scope="module")
def guest(site: Site) -> Guest:
    """A machine of the team, with a person's shell on its screen once ``shell`` was asked for."""
    made = site.create("screen")
    made.wait_ssh(timeout_s=BOOT_S)
    return made


def open_console(people: People, carrier: Carrier, guest: Guest, name: str = "owner") -> Screen:
    page = people.page(name, f"{carrier.url}/machines/{guest.uuid}/console/")
    screen = Screen(page)
    screen.wait_connected()
    return screen


def has_shell(guest: Guest) -> bool:
    return guest.ssh(HAS_SHELL).returncode == 0


@pytest.fixture
def screen(people: People, carrier: Carrier, guest: Guest) -> Screen:
    """The owner's console, with a shell on it."""
    found = open_console(people, carrier, guest)
    if not has_shell(guest):
        found.log_in(guest, "tiny", PASSWORD)
    return found


def last_session(site: Site, guest: Guest) -> tuple[str, str, str | None]:
    """(carrier, end_reason, ended_at) of the console that was opened last."""
    rows = site.stack.rows(
        "SELECT s.carrier, s.end_reason, s.ended_at FROM vms_consolesession s"
        " JOIN vms_vm v ON v.id = s.vm_id WHERE v.uuid = ? ORDER BY s.id DESC LIMIT 1",
        guest.uuid.replace("-", ""),
    )
    return rows[0]  # type: ignore[return-value]


def test_what_is_typed_reaches_the_guest(
    site: Site, screen: Screen, carrier: Carrier, guest: Guest
) -> None:
    screen.type(f"touch /tmp/typed-{carrier.name}\n")
    guest.wait_file(f"/tmp/typed-{carrier.name}", timeout_s=ARRIVES_S)
    assert last_session(site, guest)[0] == carrier.name


def test_the_clipboard_types(screen: Screen, carrier: Carrier, guest: Guest) -> None:
    page = screen.page
    page.click("#open-clipboard")
    page.fill("#clipboard-text", f"echo 'It is: A_b|c!' > /tmp/Clip_{carrier.name}\n")
    page.click("#clipboard-type")
    guest.wait_file(f"/tmp/Clip_{carrier.name}", timeout_s=ARRIVES_S)
    said = guest.ssh(f"cat /tmp/Clip_{carrier.name}").stdout
    assert said == "It is: A_b|c!\n"
    page.click("#open-clipboard")
    page.fill("#clipboard-text", "ü")
    expect(page.locator("#clipboard-notice")).to_contain_text("ü")


def test_a_guest_that_does_not_follow_the_window_is_said_to(screen: Screen) -> None:
    """Its kernel has no driver for the display."""
    page = screen.page
    page.click("#view-button")
    page.get_by_label("The guest follows the window").check()
    expect(page.locator("#strip-text")).to_contain_text("does not follow the window")
    page.get_by_label("Scale to fit").check()
    page.keyboard.press("Escape")


def raw_type(rfb: Rfb, page: Page, text: str) -> None:
    for character in text:
        rfb.key(ENTER if character == "\n" else ord(character))
        page.wait_for_timeout(KEY_DELAY_MS)
    rfb.wait_update()


def test_a_viewer_looks_and_whatever_they_send_does_not_arrive(
    people: People, screen: Screen, carrier: Carrier, guest: Guest
) -> None:
    assert has_shell(guest)
    viewing = open_console(people, carrier, guest, VIEWER)
    expect(viewing.page.locator("#view-only")).to_be_visible()
    expect(viewing.page.locator("#send-cad")).to_be_disabled()
    viewing.type("touch /tmp/viewer-page\n")
    ticket = Ticket.ask(viewing.page.context, carrier.url, guest.uuid)
    assert ticket.mode == "view"
    line = Rfb(ticket)
    raw_type(line, viewing.page, "touch /tmp/viewer-raw\n")
    line.close()
    # The same client with the owner's ticket: its keys come last, so the others had their time.
    ticket = Ticket.ask(screen.page.context, carrier.url, guest.uuid)
    assert ticket.mode == "control"
    line = Rfb(ticket)
    raw_type(line, screen.page, f"touch /tmp/raw-{carrier.name}\n")
    guest.wait_file(f"/tmp/raw-{carrier.name}", timeout_s=ARRIVES_S)
    line.close()
    assert "viewer" not in guest.ssh("ls /tmp").stdout


def test_a_real_vnc_client_through_the_command_line(
    site: Site, screen: Screen, carrier: Carrier, guest: Guest
) -> None:
    assert has_shell(guest)
    token, name = site.stack.tokens["owner"], guest.facts()["name"]
    with watching(carrier.url, token, name, "--view") as viewer:
        viewer.wait_picture()
        viewer.type("touch /tmp/client-looks\n")
    with watching(carrier.url, token, name) as viewer:
        viewer.wait_picture()
        viewer.type(f"touch /tmp/client-{carrier.name}\n")
        guest.wait_file(f"/tmp/client-{carrier.name}", timeout_s=ARRIVES_S)
    assert "looks" not in guest.ssh("ls /tmp").stdout
    screen.wait_connected()


def test_remote_viewer_opens_the_file_that_the_site_gives(
    site: Site, screen: Screen, carrier: Carrier, guest: Guest, tmp_path: Path
) -> None:
    assert has_shell(guest)
    token, name = site.stack.tokens["owner"], guest.facts()["name"]
    with opened_with_remote_viewer(carrier.url, token, name, tmp_path) as viewer:
        viewer.type(f"touch /tmp/remote-{carrier.name}\n")
        guest.wait_file(f"/tmp/remote-{carrier.name}", timeout_s=ARRIVES_S)
    screen.wait_connected()


def test_the_terminal_has_the_line(people: People, carrier: Carrier, guest: Guest) -> None:
    """The serial line is the site's own affair, whichever carries screens."""
    page = people.page("owner")
    line = Line(page, guest.uuid, url=carrier.url)
    line.log_in(guest, "tiny", PASSWORD)
    line.type(f"touch /tmp/line-{carrier.name}; exit\n")
    guest.wait_file(f"/tmp/line-{carrier.name}", timeout_s=ARRIVES_S)
    page.click("#tab-vnc")  # the kind is remembered for the machine
    Screen(page).wait_connected()


def test_a_ticket_is_good_once(
    people: People, carrier: Carrier, guest: Guest, screen: Screen
) -> None:
    ticket = Ticket.ask(screen.page.context, carrier.url, guest.uuid)
    Rfb(ticket).close()
    assert close_code(ticket) == NEVER_REUSED


def test_sign_out_closes_the_console_within_a_second(
    site: Site, people: People, carrier: Carrier, guest: Guest
) -> None:
    context = people.context(carrier.url)
    page = people.watch(context.new_page())
    sign_in(page, "owner")
    page.goto(f"/machines/{guest.uuid}/console/")
    Screen(page).wait_connected()
    other = context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Account of").click()
    # Seconds since 1970 by the browser's clock, which is this machine's.
    began = other.evaluate("Date.now() / 1000")
    other.get_by_role("button", name="Sign out").click()

    def ended() -> bool:
        return last_session(site, guest)[2] is not None

    site.stack.wait(ended, "the console has ended", timeout_s=10)
    _, reason, ended_at = last_session(site, guest)
    assert ended_at is not None
    # The database's times are UTC, without saying so.
    ended_s = datetime.fromisoformat(ended_at).replace(tzinfo=timezone.utc).timestamp()
    print(f"{carrier.name}: cut off {ended_s - began:.2f} s after the sign-out")  # noqa: T201
    assert reason == "signed_out"
    assert ended_s - began < CUT_OFF_S
    page.wait_for_url("**/accounts/login/**", timeout=PATIENCE_MS)


def test_it_comes_back_after_a_reset_and_after_stop_and_start(
    people: People, carrier: Carrier, guest: Guest
) -> None:
    screen = open_console(people, carrier, guest)
    is_live(screen.page)
    guest.virsh("reset")
    screen.wait_connected()
    guest.virsh("destroy")
    expect(screen.page.locator("#notice-text")).to_contain_text("stopped", timeout=PATIENCE_MS)
    guest.virsh("start")
    screen.wait_connected()
    expect(screen.page.locator("#notice")).to_be_hidden()
    # And by the page's own button.
    guest.virsh("destroy")
    start = screen.page.locator("#notice-start")
    expect(start).to_be_visible(timeout=PATIENCE_MS)
    start.click()
    screen.wait_connected()
    # The keys go on as well: the next carrier's tests begin with a log-in on this screen.
    guest.wait_idle()
    guest.wait_ssh(timeout_s=BOOT_S)
