"""The life of small machines, from the page: every verb, the list, and jobs that go wrong."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest, virsh
from tests.e2e.site import TEAM, People, Site, follows, is_live, state_of

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 120
VERB_MS = 30_000
FOLLOW_S = 1.0
LIST_MS = 2_000  # with the time that virsh itself takes
SHUTDOWN_MS = 60_000


@pytest.fixture(scope="module")
def linked(site: Site) -> Guest:
    """A machine on a linked copy that has finished its first boot."""
    guest = site.create("life-1", copy="linked")
    guest.wait_ssh(timeout_s=BOOT_S)
    return guest


def open_machine(people: People, guest: Guest) -> Page:
    page = people.page("owner", f"/machines/{guest.uuid}/")
    is_live(page)
    return page


def press(page: Page, verb: str) -> None:
    """From the menu of the machine's page."""
    page.click("#machine-menu-button")
    page.locator("#machine-menu").get_by_role("button", name=verb, exact=True).click()


def shows(page: Page, state: str, *, timeout_ms: float = VERB_MS) -> None:
    expect(page.locator(".machine-head .state").first).to_have_text(state, timeout=timeout_ms)


def boot_id(guest: Guest) -> str:
    return guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()


def wait_new_boot(guest: Guest, before: str) -> None:
    def other() -> bool:
        return boot_id(guest) not in ("", before)

    guest.wait(other, "the guest has booted anew", timeout_s=BOOT_S)


def fill_in(page: Page, name: str, *, image: str, size: str, copy: str = "linked") -> None:
    page.goto("/machines/new/")
    page.get_by_role("radio", name=image).check()
    page.get_by_role("radio", name=size).check()
    page.locator(f"input[name=copy][value={copy}]").check()
    if page.locator("#id_team option").count() > 1:
        page.select_option("#id_team", label=TEAM)
    page.fill("#id_name", name)


@pytest.fixture
def name() -> str:
    """A name of its own in each try: a second try does not meet what the first one left."""
    return f"life-{secrets.token_hex(3)}"


@pytest.fixture
def held_define(site: Site) -> Iterator[Path]:
    """Creates wait before their domain is defined, until the file is gone."""
    site.stack.failpoints.write_text("vm.create/define:before-do hold 0\n")
    yield site.stack.failpoints
    site.stack.failpoints.unlink(missing_ok=True)


def submit(site: Site, page: Page) -> Guest:
    page.click("#create-button")
    page.wait_for_url(lambda url: "/machines/new" not in url)
    return site.guest(page.url.rstrip("/").rsplit("/", 1)[-1].split("?")[0])


def test_a_full_copy_is_made_and_stands_alone(site: Site, people: People, name: str) -> None:
    page = people.page("owner")
    fill_in(page, name, image="Tiny Linux", size="XS 1 vCPU", copy="full")
    page.get_by_label("Paste a key").or_(page.locator("#id_pasted_key")).first.fill(site.public_key)
    guest = submit(site, page)
    shows(page, "Running", timeout_ms=BOOT_S * 1000)
    expect(page.locator("[data-copy^='ssh ']").first).to_be_visible(timeout=BOOT_S * 1000)
    assert "backing-filename" not in guest.disk()
    guest.wait_ssh(timeout_s=BOOT_S)


def test_a_linked_copy_rests_on_the_image(linked: Guest) -> None:
    assert "kvmweb-image-" in linked.disk()["backing-filename"]
    assert linked.ssh("hostname").stdout.strip() == "life-1"


def test_suspend_and_resume(people: People, linked: Guest) -> None:
    page = open_machine(people, linked)
    press(page, "Suspend")
    shows(page, "Paused")
    assert linked.state_on_host() == "paused"
    press(page, "Resume")
    shows(page, "Running")
    assert linked.state_on_host() == "running"


def test_reboot_and_reset_boot_the_guest_anew(people: People, linked: Guest) -> None:
    page = open_machine(people, linked)
    for verb in ("Reboot", "Reset"):
        before = boot_id(linked)
        page.click("#machine-menu-button")
        page.locator("#machine-menu").get_by_role("button", name=verb).click()
        if verb == "Reset":
            expect(page.locator("#dialog")).to_contain_text("lost")
            page.locator("#dialog").get_by_role("button", name="Reset").click()
        wait_new_boot(linked, before)
        shows(page, "Running")
        linked.wait_idle()


def test_shut_down_start_force_off(people: People, linked: Guest) -> None:
    page = open_machine(people, linked)
    page.get_by_role("button", name="Shut down").first.click()
    shows(page, "Stopped", timeout_ms=SHUTDOWN_MS)
    linked.wait_idle()
    page.get_by_role("button", name="Start", exact=True).first.click()
    shows(page, "Running")
    linked.wait_ssh(timeout_s=BOOT_S)
    page.click("#machine-menu-button")
    page.locator("#machine-menu").get_by_role("button", name="Force off").click()
    expect(page.locator("#dialog")).to_contain_text("not yet")
    page.locator("#dialog").get_by_role("button", name="Force off").click()
    shows(page, "Stopped")
    # What makes no sense now stays in the menu, disabled, with its reason.
    page.click("#machine-menu-button")
    item = page.locator("#machine-menu").get_by_role("button", name="Reboot")
    expect(item).to_have_attribute("aria-disabled", "true")
    expect(item).to_contain_text("It is off. Start it first.")
    linked.wait_idle()


def test_the_list_acts_in_bulk_and_follows_virsh(site: Site, people: People, name: str) -> None:
    others = [site.create(f"{name}-{n}", start=False) for n in (1, 2)]
    page = people.page("owner", f"/machines/?q={name}")
    is_live(page)
    expect(page.locator("tbody tr")).to_have_count(2)
    page.check("#select-all")
    expect(page.locator("#bulk [data-verb=start]")).to_contain_text("2")
    page.locator("#bulk [data-verb=start]").click()
    for guest in others:
        expect(page.locator(f"#vm-{guest.uuid}")).to_contain_text("Running", timeout=VERB_MS)
    row = page.locator(f"#vm-{others[0].uuid}")
    others[0].virsh("suspend")
    expect(row).to_contain_text("Paused", timeout=LIST_MS)
    others[0].virsh("resume")
    expect(row).to_contain_text("Running", timeout=LIST_MS)
    others[0].virsh("destroy")
    expect(row).to_contain_text("Stopped", timeout=LIST_MS)
    for guest in others:
        guest.wait_idle(timeout_s=BOOT_S)
    page.check("#select-all")
    page.locator("#bulk [data-verb=delete]").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text("2 machines")
    expect(dialog).to_contain_text("1 of them is running")
    dialog.locator("input[name=purge]").check()  # not into the recycle bin
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator("tbody tr")).to_have_count(0, timeout=VERB_MS)
    for guest in others:
        host = guest.stack.rows(
            "SELECT h.name FROM vms_vm v JOIN hosts_host h ON h.id = v.host_id WHERE v.uuid = ?",
            guest.uuid.replace("-", ""),
        )
        for (name,) in host:
            assert guest.uuid not in virsh(site.lab, name, "list", "--all", "--uuid")


def test_the_page_follows_virsh(people: People, linked: Guest) -> None:
    if linked.facts()["state"] != "running":
        linked.virsh("start")
        linked.wait_state("running")
    page = open_machine(people, linked)
    for verb, word in (
        ("suspend", "Paused"),
        ("resume", "Running"),
        ("destroy", "Stopped"),
        ("start", "Running"),
    ):
        follows(
            page,
            lambda verb=verb: linked.virsh(verb),
            word,
            within_s=FOLLOW_S,
            what=f"virsh {verb}",
        )


def test_a_guest_that_ignores_the_shutdown_may_be_forced_off(
    site: Site, people: People, name: str
) -> None:
    page = people.page("owner")
    fill_in(page, name, image="Blank", size="XS 1 vCPU")
    guest = submit(site, page)
    shows(page, "Running", timeout_ms=BOOT_S * 1000)
    page.get_by_role("button", name="Shut down").first.click()
    notice = page.locator("#news").get_by_text("The guest has not reacted to the shutdown")
    expect(notice).to_be_visible(timeout=VERB_MS)
    page.locator("#news").get_by_role("button", name="Force off").click()
    expect(page.locator("#dialog")).to_contain_text("not yet")
    page.locator("#dialog").get_by_role("button", name="Force off").click()
    shows(page, "Stopped")
    assert guest.state_on_host() == "shut off"


def test_delete_asks_for_the_name_while_it_runs(site: Site, people: People, name: str) -> None:
    guest = site.create(name)
    host = guest.host
    page = open_machine(people, guest)
    assert state_of(page) == "Running"
    page.click("#machine-menu-button")
    page.locator("#machine-menu").get_by_role("button", name="Delete").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text(f"kvmweb-{guest.uuid}-vda.qcow2")
    button = dialog.get_by_role("button", name="Delete")
    expect(button).to_be_disabled()
    page.fill("#confirm-name", name[:-1])
    expect(button).to_be_disabled()
    page.fill("#confirm-name", name)
    dialog.locator("input[name=purge]").check()  # not into the recycle bin
    button.click()
    page.wait_for_url("**/machines/")

    def gone() -> bool:
        return guest.uuid not in virsh(site.lab, host, "list", "--all", "--uuid")

    guest.wait(gone, "the domain is gone", timeout_s=60)
    virsh(site.lab, host, "pool-refresh", "default")
    assert guest.uuid not in virsh(site.lab, host, "vol-list", "default")
    expect(page.locator(f"#vm-{guest.uuid}")).to_have_count(0, timeout=VERB_MS)


def test_a_job_is_cancelled_and_tried_again_from_activity(
    site: Site, people: People, held_define: Path, name: str
) -> None:
    page = people.page("owner")
    fill_in(page, name, image="Tiny Linux", size="XS 1 vCPU")
    guest = submit(site, page)
    expect(page.locator("#step-define.running")).to_be_visible(timeout=VERB_MS)
    volumes = guest.volumes()
    assert any("vda" in name for name in volumes), volumes
    host = guest.host
    page.goto("/activity/")
    is_live(page)
    row = page.locator("tbody tr", has_text=name).first
    row.get_by_role("button", name="Cancel").click()
    held_define.unlink()
    expect(row).to_contain_text("Cancelled", timeout=VERB_MS)
    virsh(site.lab, host, "pool-refresh", "default")
    assert guest.uuid not in virsh(site.lab, host, "vol-list", "default")
    row.get_by_role("button", name="Try again").click()
    page.wait_for_url(re.compile(r"/activity/[0-9a-f-]{36}/"))  # the new try's own page
    expect(page.locator("#job .lead")).to_contain_text("Succeeded", timeout=BOOT_S * 1000)
    page.goto("/activity/")
    expect(page.locator("tbody tr", has_text=name)).to_have_count(2)
    (found,) = site.stack.api("GET", f"/vms?q={name}")["items"]
    assert found["state"] == "running"


def test_a_failed_job_says_what_why_and_what_was_cleaned(
    site: Site, people: People, held_define: Path, name: str
) -> None:
    page = people.page("owner")
    fill_in(page, name, image="Tiny Linux", size="XS 1 vCPU")
    guest = submit(site, page)
    expect(page.locator("#step-define.running")).to_be_visible(timeout=VERB_MS)
    host = guest.host
    # Somebody deletes the new disk under the site's feet: the guest cannot be started.
    virsh(site.lab, host, "vol-delete", f"kvmweb-{guest.uuid}-vda.qcow2", "--pool", "default")
    held_define.unlink()
    notice = page.locator("#machine .notice")
    expect(notice).to_contain_text("This machine could not be made", timeout=VERB_MS)
    expect(notice).to_contain_text("no disk, no domain and no quota is left of it")
    expect(notice.get_by_role("button", name="Try again")).to_be_visible()
    assert guest.uuid not in virsh(site.lab, host, "list", "--all", "--uuid")
    page.goto("/activity/")
    row = page.locator("tbody tr", has_text=name).first
    expect(row).to_contain_text("Failed")
    expect(row).to_contain_text("not in the host's pool any more")
    row.get_by_role("link").first.click()
    expect(page.locator("#job")).to_contain_text("what was begun was cleaned up")
    expect(page.locator("#step-disk")).to_contain_text("cleaned up")
    assert virsh(site.lab, host, "vol-list", "default").find(guest.uuid) == -1
