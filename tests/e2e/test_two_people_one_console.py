"""Two people at one machine's console, in two browsers: invited, looking, typing, recorded, sent
away. The second one is nobody on this site's teams: all they have is a link."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Locator, Page, Request, expect
from websockets.sync.client import connect

from tests.consoles.serial_site import Terminal
from tests.e2e.carriers import SHIFT, Rfb, Ticket, free_port, websockify
from tests.e2e.guests import Guest
from tests.e2e.screen import HAS_SHELL, Screen
from tests.e2e.site import PATIENCE_MS, People, Site, is_live, sign_in
from tests.e2e.test_serial_line import log_in, open_line, run
from tests.lab.conftest import ROOT
from tests.stack import PASSWORD

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(300)]

OWNER, GUEST, THIRD = "owner", "outsider", "third"
BOOT_S = 120
ARRIVES_S = 30
CUT_OFF_S = 1.0
SHIFT_SCANCODE = 0x2A
# Each key and each movement interrupts the guest; its idle screen does not.
INPUTS = "n=$(awk '/i8042|xhci/ {n+=$2} END {print n}' /proc/interrupts)"
DIFFERS = 0.01  # of a picture's pixels: a cursor blinks
PICTURE = """() => {
  const canvas = document.querySelector("#screen canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let text = "";
  for (let at = 0; at < data.length; at += 4) text += data[at] > 60 ? "#" : ".";
  return text;
}"""


@pytest.fixture(scope="module")
def guest(site: Site) -> Iterator[Guest]:
    person = {"username": THIRD, "email": f"{THIRD}@example.test", "password": PASSWORD}
    site.stack.api("POST", "/users", person, user="admin", ok=False)  # a second try has them
    made = site.create(f"two-{uuid4().hex[:4]}")
    made.wait_ssh(timeout_s=BOOT_S)
    yield made
    made.virsh("destroy")


@pytest.fixture(autouse=True)
def no_invites_left(site: Site, guest: Guest) -> Iterator[None]:
    yield
    at = f"/vms/{guest.uuid}/console/invites"
    for made in site.stack.api("GET", at)["items"]:
        site.stack.api("DELETE", f"{at}/{made['id']}")


def open_console(people: People, guest: Guest, name: str, url: str = "", **options: Any) -> Screen:
    screen = Screen(people.page(name, f"{url}/machines/{guest.uuid}/console/", **options))
    screen.wait_connected()
    is_live(screen.page)
    return screen


def invite(site: Site, guest: Guest, *, mode: str = "view", once: bool = False) -> str:
    """The link's path."""
    wanted = {"mode": mode, "once": once, "hours": 1}
    made = site.stack.api("POST", f"/vms/{guest.uuid}/console/invites", wanted)
    return str(urlsplit(made["url"]).path)


def join(people: People, name: str, link: str, **options: Any) -> Screen:
    page = people.page(name, link, **options)
    page.get_by_role("button", name="Join").click()
    screen = Screen(page)
    screen.wait_connected()
    is_live(page)
    return screen


def open_people(page: Page) -> Locator:
    page.click("#people-button")
    menu = page.locator("#people-menu")
    expect(menu).to_be_visible()
    return menu


def holds(screen: Screen, mode: str) -> None:
    """Until the page is connected again with this mode."""
    looks = screen.page.locator("#view-only")
    expect(looks).to_be_visible(visible=mode == "view", timeout=PATIENCE_MS)
    screen.wait_connected()


# --- invited --------------------------------------------------------------------------------------


def test_a_link_opens_the_console_and_nothing_else(
    site: Site, people: People, guest: Guest
) -> None:
    theirs = people.page(GUEST)
    machine = f"/machines/{guest.uuid}/"
    for path in (machine, f"{machine}console/", f"{machine}console/?part=people_list"):
        assert theirs.goto(path).status == 404, path  # type: ignore[union-attr]
    owner = open_console(people, guest, OWNER).page
    open_people(owner).get_by_role("button", name="Invite").click()
    owner.get_by_label("Only for the first person").check()
    owner.select_option("#invite-hours", label="1 hour")
    owner.get_by_role("button", name="Make a link").click()
    link = owner.locator("#invite-link").inner_text()
    owner.keyboard.press("Escape")

    theirs.goto(link)
    expect(theirs.locator("h1")).to_contain_text("Join the console of two-")
    theirs.get_by_role("button", name="Join").click()
    Screen(theirs).wait_connected()
    expect(theirs.locator("#view-only")).to_be_visible()
    expect(theirs.locator("#ask-for-control")).to_have_count(0)
    assert theirs.context.request.get(machine).status == 404
    # Both see both, and who has control.
    menu = open_people(owner)
    first, second = menu.locator("li").nth(0), menu.locator("li").nth(1)
    expect(first).to_contain_text(re.compile(r"owner.*you.*VNC · has control", re.DOTALL))
    expect(second).to_contain_text(re.compile(r"outsider.*VNC · looks · invited", re.DOTALL))
    expect(second.get_by_role("button", name="Hand over")).to_be_visible()
    expect(open_people(theirs).locator("li")).to_have_count(2)
    # It was for one person.
    late = people.page(THIRD, link)
    late.get_by_role("button", name="Join").click()
    expect(late.locator("main")).to_contain_text("somebody has used it")
    assert late.context.request.get(f"{machine}console/").status == 404


def test_a_link_ends_when_it_is_late_or_unknown(site: Site, people: People, guest: Guest) -> None:
    link = invite(site, guest)
    past = "timezone.now() - timedelta(seconds=1)"
    imports = "from datetime import timedelta; from django.utils import timezone; "
    model = "from vms.models import ConsoleInvite; "
    site.manage("shell", "-c", f"{imports}{model}ConsoleInvite.objects.update(expires_at={past})")
    page = people.page(GUEST)
    for path in (link, link.replace("/join/", "/join/x")):
        assert page.goto(path).status == 404  # type: ignore[union-attr]
        expect(page.locator("main")).to_contain_text("This invite is not valid")


# --- only looking ---------------------------------------------------------------------------------


def inputs(site: Site, guest: Guest) -> int:
    """How many keys and movements the guest has felt, told by it on its serial line."""
    with open_line(site, guest) as terminal:
        terminal.until_told(type="live")
        log_in(terminal)
        run(terminal, f"{INPUTS}; echo in$((4 + 3)) $n .", "in7")
        terminal.until_shown(b" .")
        return int(re.findall(rb"in7 (\d+) \.", bytes(terminal.shown))[-1])


def send_everything(line: Rfb) -> None:
    """Keys in both of RFB's ways, the pointer, the clipboard."""
    for _ in range(3):
        line.key(SHIFT)  # what is typed with control must not spoil the prompt
        line.scancode(SHIFT, SHIFT_SCANCODE)
    for step in range(10):
        line.point(40 * step, 30 * step, buttons=step % 2)
    line.cut_text("rm -rf /\n")
    line.wait_update()
    time.sleep(0.5)


@pytest.mark.timeout(300)
def test_who_looks_sends_everything_and_the_guest_feels_nothing(
    site: Site, people: People, guest: Guest
) -> None:
    context = join(people, GUEST, invite(site, guest)).page.context
    before = inputs(site, guest)
    with websockify(site.stack) as beside:
        for origin, path in (
            (site.stack.url, ""),
            (beside, ""),
            (beside, "/ws/console/vnc"),  # a ticket to view, brought to who carries control
        ):
            ticket = Ticket.ask(context, origin, guest.uuid)
            assert ticket.mode == "view"
            if path:
                socket = f"{origin.replace('http', 'ws', 1)}{path}"
                ticket = replace(ticket, url=socket)
            line = Rfb(ticket)
            send_everything(line)
            line.close()
        assert inputs(site, guest) == before
        # With the owner's ticket the same messages arrive: the guest does feel them.
        mine = people.page(OWNER).context
        for origin in (site.stack.url, beside):
            line = Rfb(Ticket.ask(mine, origin, guest.uuid))
            send_everything(line)
            line.close()
            after = inputs(site, guest)
            assert after > before, origin
            before = after


# --- control --------------------------------------------------------------------------------------


def types(screen: Screen, guest: Guest, name: str) -> None:
    screen.type(f"touch /tmp/{name}\n")
    guest.wait_file(f"/tmp/{name}", timeout_s=ARRIVES_S)


def test_control_is_asked_for_handed_over_and_taken_back(
    site: Site, people: People, guest: Guest
) -> None:
    mine = open_console(people, guest, OWNER)
    if guest.ssh(HAS_SHELL).returncode:
        mine.log_in(guest, "tiny", PASSWORD)
    theirs = join(people, GUEST, invite(site, guest, mode="control"))
    holds(theirs, "view")
    theirs.page.click("#ask-for-control")
    expect(mine.page.locator("#strip")).to_contain_text("outsider: asks for control")
    menu = open_people(mine.page)
    expect(menu).to_contain_text("asks for control")
    menu.get_by_role("button", name="Hand over").click()
    holds(theirs, "control")
    expect(theirs.page.locator("#strip")).to_contain_text("You have control now")
    holds(mine, "view")
    expect(mine.page.locator("#strip")).to_contain_text("Somebody else has control now")
    types(theirs, guest, "by-outsider")
    mine.type("touch /tmp/too-late\n")
    types(theirs, guest, "by-outsider-again")
    mine.page.click("#take-control")
    holds(mine, "control")
    holds(theirs, "view")
    expect(theirs.page.locator("#strip")).to_contain_text("Somebody else has control now")
    theirs.type("touch /tmp/too-late\n")
    types(mine, guest, "by-owner")
    assert "too-late" not in guest.ssh("ls /tmp").stdout
    mine.page.goto(f"/machines/{guest.uuid}/?tab=timeline")
    said = mine.page.locator("main")
    for text in (
        "Invite to control the console made",
        "Joined the console by an invite",
        "Console control handed to outsider",
        "Console control taken from outsider",
    ):
        expect(said).to_contain_text(text)


# --- recorded -------------------------------------------------------------------------------------


def differing(one: str, other: str) -> float:
    if len(one) != len(other):
        return 1.0
    return sum(a != b for a, b in zip(one, other, strict=True)) / len(one)


def play(page: Page, number: int) -> None:
    """The recording of this number in the dialog, to its end."""
    open_people(page).get_by_role("button", name="Recordings").click()
    page.locator("#dialog a[href*=recordings]").nth(number).click()
    page.wait_for_url("**/recordings/**")
    page.select_option("#speed", "16")
    expect(page.locator("html[data-player=paused]")).to_have_count(1, timeout=PATIENCE_MS)


def test_screen_and_line_are_recorded_shown_to_all_and_played(
    site: Site, people: People, guest: Guest
) -> None:
    mine = open_console(people, guest, OWNER)
    theirs = join(people, GUEST, invite(site, guest))
    expect(open_people(theirs.page)).not_to_contain_text("Record the")
    for kind in ("screen", "serial line"):
        open_people(mine.page).get_by_role("button", name=f"Record the {kind}").click()
    for page in (mine.page, theirs.page):
        expect(page.locator(".console-recording")).to_have_count(2)
    before = mine.page.evaluate(PICTURE)
    mine.type("seen in the recording")
    with open_line(site, guest) as terminal:
        terminal.until_told(type="live")
        log_in(terminal)
        run(terminal, "echo recorded $((6 * 7))", "recorded 42")
    mine.page.wait_for_timeout(1500)
    shown = mine.page.evaluate(PICTURE)
    assert differing(before, shown) > 0, "nothing was drawn"
    for kind in ("screen", "serial line"):
        open_people(mine.page).get_by_role("button", name=f"Stop recording the {kind}").click()
    for page in (mine.page, theirs.page):
        expect(page.locator(".console-recording")).to_have_count(0)
    rows = site.stack.api("GET", f"/vms/{guest.uuid}/recordings")["items"]
    assert [row["end_reason"] for row in rows] == ["stopped_by"] * 2
    for number, row in enumerate(rows):
        mine.page.goto(f"/machines/{guest.uuid}/console/")
        play(mine.page, number)
        if row["kind"] == "vnc":
            mine.page.wait_for_timeout(300)
            assert differing(mine.page.evaluate(PICTURE), shown) < DIFFERS
            mine.page.locator("#seek").fill("0")
            mine.page.wait_for_timeout(300)
            assert differing(mine.page.evaluate(PICTURE), before) < DIFFERS
        else:
            expect(mine.page.locator("#terminal .xterm-rows")).to_contain_text("recorded 42")
    # An invite to the console shows none of what was before it.
    assert theirs.page.context.request.get(f"/recordings/{rows[0]['id']}/").status == 404


# --- sent away ------------------------------------------------------------------------------------


def cut_off_after(site: Site, guest: Guest, user: str, button: Locator) -> float:
    """Seconds from the request that this button makes until this person's console was closed."""
    sql = (
        "SELECT s.ended_at FROM vms_consolesession s JOIN vms_vm v ON v.id = s.vm_id"
        " JOIN accounts_user u ON u.id = s.user_id WHERE v.uuid = ? AND u.username = ?"
        " ORDER BY s.id DESC LIMIT 1"
    )
    asked: list[float] = []

    def posts(request: Request) -> bool:
        if request.method == "POST":
            asked.append(time.time())
        return bool(asked)

    with button.page.expect_request(posts):
        button.click()

    def ended() -> Any:
        rows = site.stack.rows(sql, guest.uuid.replace("-", ""), user)
        return rows[0][0]

    at = datetime.fromisoformat(site.stack.wait(ended, f"{user}'s console ended", timeout_s=10))
    # The database's times are UTC, without saying so.
    took = at.replace(tzinfo=timezone.utc).timestamp() - asked[0]
    print(f"{user}'s console was closed {took:.2f} s after")  # noqa: T201
    return took


def test_who_is_sent_away_is_cut_off_at_once_and_told_why(
    site: Site, people: People, guest: Guest
) -> None:
    theirs = join(people, GUEST, invite(site, guest))
    mine = open_console(people, guest, OWNER).page
    open_people(mine).get_by_role("button", name="Invite").click()
    revoke = mine.locator("#dialog").get_by_role("button", name="Revoke")
    assert cut_off_after(site, guest, GUEST, revoke) < CUT_OFF_S
    said = theirs.page.locator("#notice-text")
    expect(said).to_contain_text("You may not see this screen any more")
    theirs.page.wait_for_timeout(1500)
    expect(said).to_be_visible()
    expect(theirs.page.locator("#notice-reconnect")).to_be_hidden()
    # Who has come by a link that still counts, and signs out elsewhere.
    context = people.context()
    page = people.watch(context.new_page())
    sign_in(page, GUEST)
    page.goto(invite(site, guest))
    page.get_by_role("button", name="Join").click()
    Screen(page).wait_connected()
    other = context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Account of").click()
    out = other.get_by_role("button", name="Sign out")
    assert cut_off_after(site, guest, GUEST, out) < CUT_OFF_S
    page.wait_for_url("**/accounts/login/**")


def test_who_is_invited_follows_the_machine_to_its_end(site: Site, people: People) -> None:
    answer = site.stack.create(name=f"gone-{uuid4().hex[:4]}")
    doomed = site.guest(answer["vm"]["uuid"])
    doomed.wait_state("running", timeout_s=BOOT_S)
    theirs = join(people, GUEST, invite(site, doomed)).page
    mine = open_console(people, doomed, OWNER).page
    said = theirs.locator("#notice-text")
    doomed.wait_free(timeout_s=BOOT_S)
    doomed.virsh("destroy")
    expect(said).to_contain_text("The machine is stopped", timeout=PATIENCE_MS)
    doomed.wait_state("shutoff")
    doomed.virsh("start")
    Screen(theirs).wait_connected()
    site.stack.wait_final(site.stack.delete(doomed.uuid))
    expect(said).to_contain_text("the machine was deleted", timeout=PATIENCE_MS)
    expect(theirs.locator("#notice-reconnect")).to_be_hidden()
    expect(mine.locator("main")).to_contain_text("This machine was deleted")


# --- two processes of the site ----------------------------------------------------------------


@contextlib.contextmanager
def second_web(site: Site, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Another process that serves the same site, with room for small recordings only."""
    port = free_port()
    web = site.stack.processes["web"].argv
    argv = [f"--port={port}" if word.startswith("--port=") else word for word in web]
    with (folder / "web2.log").open("wb") as log:
        running = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=site.stack.env | {"KVMWEB_RECORDING_MAX_MIB": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    try:
        site.stack.wait(answers, "the second process answers", timeout_s=BOOT_S)
        yield url, running
    finally:
        running.kill()
        running.wait()


def open_line_at(site: Site, url: str, guest: Guest, user: str, mode: str) -> Terminal:
    ticket = site.stack.api(
        "POST", f"/vms/{guest.uuid}/console", {"kind": "serial", "mode": mode}, user=user
    )
    socket = url.replace("http", "ws", 1) + urlsplit(ticket["url"]).path
    return Terminal(
        connect(socket, subprotocols=ticket["protocols"], compression=None, max_size=None)
    )


def test_two_processes_of_the_site_serve_one_machine(
    site: Site, guest: Guest, tmp_path: Path
) -> None:
    """A host gives a serial line to one reader: the other process follows it there, types through
    it, and reads it itself when that process is killed."""
    site.stack.api("POST", f"/vms/{guest.uuid}/console/take", user=OWNER)
    with contextlib.ExitStack() as stack:
        url, process = stack.enter_context(second_web(site, tmp_path))
        reading = stack.enter_context(open_line_at(site, url, guest, "admin", "view"))
        reading.until_told(type="live")
        typing = stack.enter_context(open_line(site, guest, mode="control"))
        typing.until_told(type="live")
        log_in(typing)
        run(typing, "echo both $((80 + 8))", "both 88")
        reading.until_shown(b"both 88")
        assert not [told for told in typing.told if told["type"] == "line"]
        # A recording that the second process makes, and that is soon full.
        headers = {"Authorization": f"Bearer {site.stack.tokens[OWNER]}"}
        at = f"{url}/api/v1/vms/{guest.uuid}/recordings"
        made = httpx.post(at, json={"kind": "serial"}, headers=headers, timeout=30)
        assert made.status_code == 201, made.text
        typing.type(b"yes flood | head -c 1500000\r")

        def full() -> bool:
            found = site.stack.api("GET", f"/recordings/{made.json()['id']}")
            return bool(found["end_reason"] == "full" and found["size_bytes"] <= 1 << 20)

        typing.until(full, "the recording is full", BOOT_S)
        typing.type(b"\x03")
        run(typing, "echo ended $((70 + 7))", "ended 77", BOOT_S)
        process.kill()
        typing.until_told(type="line", state="open", timeout_s=ARRIVES_S)
        run(typing, "echo alone $((90 + 9))", "alone 99")
