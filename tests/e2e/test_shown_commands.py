"""“Show command”: what the site shows is run on the machine's host as it stands, and does that."""

from __future__ import annotations

import secrets

import pytest

from tests.e2e.guests import Guest
from tests.e2e.site import People, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

FOLLOWED_S = 120  # to a host that says so only when all of it is read again

# Key -> what virsh domstate says afterwards. In this order.
SAMPLE = (
    ("suspend", "paused"),
    ("resume", "running"),
    ("keys", "running"),
    ("reset", "running"),
    ("autostart", "running"),
    ("description", "running"),
    ("cable", "running"),
    ("guest", None),  # the tiny guest has no agent: the line is right, its answer is no
    ("snapshot", "running"),
    ("snapshot_delete", "running"),
    ("xml", "running"),
    ("save", "shut off"),
    ("start", "running"),
    ("force_off", "shut off"),
    ("start_paused", "paused"),
    ("force_off", "shut off"),
    ("size", "shut off"),
    ("disk-grow", "shut off"),
    ("template", "shut off"),
    ("clone", "shut off"),
    ("nic-add", "shut off"),
)


def test_each_line_does_what_it_says(site: Site, people: People) -> None:
    name = f"cmd-{secrets.token_hex(3)}"
    guest = site.create(name, tags=["cmd"], copy="full")
    for key, state in SAMPLE:
        code, said = run(site, guest, key)
        if state is None:
            assert "agent" in said, said
            continue
        assert code == 0, f"{key}: {said}"
        guest.wait(
            lambda wanted=state: guest.state_on_host() == wanted, f"{key}: {state}", timeout_s=60
        )
        guest.wait(
            lambda wanted=state: guest.facts()["state"] == wanted.replace(" ", ""),
            f"the site follows {key}",
            timeout_s=60,
        )
    host = guest.host
    exec_ = ("virsh", "-c", "qemu:///system")
    listed = site.lab.exec(host, *exec_, "list", "--all", "--name").stdout.split()
    assert f"{name}-2" in listed
    gone = ("undefine", f"{name}-2", "--remove-all-storage")
    site.lab.exec(host, *exec_, *gone)
    other = next(one.name for one in site.lab.hosts if one.name != host)
    moves_by_hand(site, people, guest, other, state="shut off")
    assert run(site, guest, "start")[0] == 0
    guest.wait_state("running")
    moves_by_hand(site, people, guest, host, state="running")
    site.stack.wait_final(site.stack.delete(guest.uuid))
    site.lab.exec(host, "rm", "-f", f"/var/lib/libvirt/images/{name}-template.qcow2")


def moves_by_hand(site: Site, people: People, guest: Guest, there: str, *, state: str) -> None:
    """By the dialog's lines, which name the other host. Off: its files, then what defines it."""
    left = guest.host
    page = people.page("admin", f"/machines/{guest.uuid}/move/")
    lines = page.locator("details .copy button").first.get_attribute("data-copy")
    assert lines
    code, said = run_lines(site, left, lines)
    assert code == 0, said
    guest.wait(lambda: guest.host == there, "the site follows", timeout_s=FOLLOWED_S)
    assert guest.state_on_host() == state
    for name in (f"kvmweb-{guest.uuid}-vda.qcow2", f"kvmweb-{guest.uuid}-serial.log"):
        site.lab.exec(left, "rm", "-f", f"/var/lib/libvirt/images/{name}")
    site.lab.exec(left, "virsh", "pool-refresh", "default")


def run(site: Site, guest: Guest, key: str) -> tuple[int, str]:
    listed = site.stack.api("GET", f"/vms/{guest.uuid}/commands")
    lines = next(one["commands"] for one in listed if one["key"] == key)
    if key == "clone":
        lines = [line for line in lines if line.startswith("virt-clone")]
    return run_lines(site, guest.host, "\n".join(lines))


def run_lines(site: Site, host: str, script: str) -> tuple[int, str]:
    done = site.lab.exec(host, "bash", "-ec", script, check=False, timeout_s=120)
    return done.returncode, f"{script}\n{done.stdout}{done.stderr}"
