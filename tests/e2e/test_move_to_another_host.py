"""A machine moves to another host by the site: while it runs, and while it is off."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from tests.e2e.guests import Guest, virsh
from tests.e2e.screen import Line
from tests.e2e.site import PATIENCE_MS, People, Site
from tests.stack import PASSWORD

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 120
MOVE_S = 180
SETTLE_S = 60


@pytest.fixture
def guest(site: Site) -> Guest:
    """Linked: what it stands on is brought to the other host first."""
    made = site.create(f"mover-{uuid4().hex[:4]}")
    made.wait_ssh(timeout_s=BOOT_S)
    made.wait_free(timeout_s=BOOT_S)
    return made


def other_host(site: Site, guest: Guest) -> str:
    return next(host.name for host in site.lab.hosts if host.name != guest.host)


def id_of(site: Site, name: str) -> int:
    rows = site.stack.api("GET", "/hosts", user="admin")["items"]
    return int(next(row["id"] for row in rows if row["name"] == name))


def knows(site: Site, host: str, guest: Guest) -> bool:
    return guest.uuid in virsh(site.lab, host, "list", "--all", "--uuid")


def files_on(site: Site, host: str, guest: Guest) -> str:
    listed = site.lab.exec(host, "ls", "/var/lib/libvirt/images").stdout
    return "\n".join(line for line in listed.splitlines() if guest.uuid in line)


def is_whole_on(site: Site, host: str, guest: Guest) -> None:
    left = next(one.name for one in site.lab.hosts if one.name != host)
    site.stack.wait(lambda: guest.host == host, f"it is on {host}", timeout_s=MOVE_S)
    assert knows(site, host, guest)
    assert f"kvmweb-{guest.uuid}-vda.qcow2" in files_on(site, host, guest)
    assert not knows(site, left, guest)
    site.stack.wait(
        lambda: not files_on(site, left, guest), f"nothing of it is on {left}", timeout_s=SETTLE_S
    )


def move(site: Site, guest: Guest, host: str) -> dict[str, Any]:
    wanted = {"host": id_of(site, host)}
    answer = site.stack.api("POST", f"/vms/{guest.uuid}/migrate", wanted, user="admin")
    (job,) = site.stack.wait_final(answer, timeout_s=MOVE_S)
    found: dict[str, Any] = job
    return found


def test_it_moves_while_it_runs_and_back_while_it_is_off(
    site: Site, people: People, guest: Guest
) -> None:
    by_the_dialog_while_it_runs(site, people, guest)
    by_the_api_while_it_is_off(site, guest)


def by_the_dialog_while_it_runs(site: Site, people: People, guest: Guest) -> None:
    """Its disk stands on an image that the other host may not have yet, and what its shell keeps in
    memory is there afterwards."""
    assert guest.ssh("echo precious >kept; sync").returncode == 0
    page, there = people.page("admin"), other_host(site, guest)
    line = Line(page, guest.uuid)
    line.log_in(guest, "tiny", PASSWORD)
    line.type("mark=alive-$((6*7))\n")
    page.goto(f"/machines/{guest.uuid}/")
    page.click("#machine-menu-button")
    page.get_by_role("button", name="Move to another host").click()
    page.get_by_role("radio", name=there).check()
    page.get_by_role("button", name="Move machine").click()
    expect(page.locator("body")).to_contain_text(f"moves to {there}.", timeout=PATIENCE_MS)
    is_whole_on(site, there, guest)
    guest.wait_idle(timeout_s=SETTLE_S)
    assert (guest.state_on_host(), guest.facts()["state"]) == ("running", "running")
    line = Line(page, guest.uuid)
    line.wait_shell()
    line.type("echo $mark-$(cat kept)\n")
    line.says("alive-42-precious")
    told = [row["text"] for row in site.stack.api("GET", f"/vms/{guest.uuid}/timeline")["items"]]
    assert sum("Moved from host" in text for text in told) == 1
    assert not any("Stopped" in text for text in told)


def by_the_api_while_it_is_off(site: Site, guest: Guest) -> None:
    site.stack.wait_final(site.stack.api("POST", f"/vms/{guest.uuid}/force-off", user="admin"))
    there = other_host(site, guest)
    assert move(site, guest, there)["state"] == "succeeded"
    is_whole_on(site, there, guest)
    site.stack.wait_final(site.stack.api("POST", f"/vms/{guest.uuid}/start", user="admin"))
    guest.wait_ssh(timeout_s=BOOT_S)
    assert guest.ssh("cat kept").stdout.strip() == "precious"
