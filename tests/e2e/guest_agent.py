"""The real qemu-guest-agent of a real Debian: it tells, does, hangs and lies. Part of the test that
boots that machine anyway."""

from __future__ import annotations

import base64
from typing import Any

from passlib.hash import sha512_crypt
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest
from tests.e2e.site import Site

ANSWER_S = 90
PASSWORD = "a new password 9"
SERVICE = "qemu-guest-agent.service"
# An agent that does as the protocol wants and says what it likes.
LIAR = r"""
import json, os
line = os.open("/dev/virtio-ports/org.qemu.guest_agent.0", os.O_RDWR)
buffer = b""
lies = {
    "guest-get-host-name": {"host-name": "<script>x</script>\u202e\u0007" + "h" * 3000},
    "guest-get-fsinfo": [{"name": "n" * 500, "mountpoint": "/<b>" + "m" * 5000, "type": "t",
                          "used-bytes": 2**62, "total-bytes": 7, "disk": []}] * 200,
    "guest-get-users": [{"user": "u" * 400, "login-time": 1e300}] * 200,
}
while True:
    buffer += os.read(line, 65536)
    *whole, buffer = buffer.split(b"\n")
    for text in whole:
        asked = json.loads(text.strip(b"\xff \n") or b"{}")
        what = asked.get("execute", "")
        if what.startswith("guest-sync"):
            said = {"return": asked["arguments"]["id"]}
        elif what in lies:
            said = {"return": lies[what]}
        else:
            said = {"error": {"class": "CommandNotFound", "desc": "no"}}
        mark = b"\xff" if what == "guest-sync-delimited" else b""
        os.write(line, mark + json.dumps(said).encode() + b"\n")
"""


def its_agent_tells_and_does(site: Site, page: Page, guest: Guest) -> None:
    said = _asked(site, guest)
    assert (said["os_id"], said["hostname"]) == ("debian", "first"), said
    (root,) = [one for one in said["filesystems"] if one["mountpoint"] == "/"]
    assert 0 < root["used_bytes"] < root["total_bytes"], root
    assert [card["mac"] for card in said["cards"]] == [guest.facts()["mac"]]
    page.goto(f"/machines/{guest.uuid}/?tab=guest")
    expect(page.get_by_text("Debian GNU/Linux 12")).to_be_visible()

    body = {"user": "debian", "password": PASSWORD}
    _done(site, "PUT", f"/vms/{guest.uuid}/guest/password", body)
    hashed = guest.ssh("sudo -n getent shadow debian").stdout.split(":")[1]
    assert sha512_crypt.verify(PASSWORD, hashed)
    _done(site, "POST", f"/vms/{guest.uuid}/guest/trim")

    assert _snapshot(site, guest, "frozen") == ""
    guest.ssh(f"sudo -n systemctl kill -s STOP {SERVICE}")
    assert _asked(site, guest)["error"]["code"] == "virt.agent_silent"
    assert _snapshot(site, guest, "pulled") != ""
    guest.ssh(f"sudo -n systemctl kill -s CONT {SERVICE}; sudo -n systemctl stop {SERVICE}")

    coded = base64.b64encode(LIAR.encode()).decode()
    guest.ssh(
        f"echo {coded} | base64 -d > liar.py; sudo -n systemd-run --unit liar python3 $PWD/liar.py"
    )
    said = _asked(site, guest, lambda one: one["hostname"].startswith("<script>"))
    assert len(said["hostname"]) <= 128, said
    assert len(said["filesystems"]) <= 32
    page.reload()
    expect(page.get_by_text("<script>x</script>hhh")).to_be_visible()
    guest.ssh(f"sudo -n systemctl stop liar; sudo -n systemctl start {SERVICE}")
    assert _asked(site, guest, lambda one: one["hostname"] == "first")["os_id"] == "debian"


def _asked(site: Site, guest: Guest, good: Any = None) -> dict[str, Any]:
    """What it says when it is asked now."""
    path = f"/vms/{guest.uuid}/guest"
    before = site.stack.api("GET", path)["tried_at"]
    site.stack.api("POST", f"{path}/refresh")

    def new() -> Any:
        now = site.stack.api("GET", path)
        if now["tried_at"] == before or (good and not good(now)):
            site.stack.api("POST", f"{path}/refresh")
            return None
        return now

    said: dict[str, Any] = site.stack.wait(new, "its agent's answer", timeout_s=ANSWER_S)
    return said


def _done(site: Site, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = site.stack.api(method, path, body)
    (job,) = site.stack.wait_final(answer, timeout_s=ANSWER_S)
    assert job["state"] == "succeeded", job
    return dict(job)


def _snapshot(site: Site, guest: Guest, name: str) -> str:
    """Of its disks while it runs; what its step remarks."""
    path = f"/vms/{guest.uuid}/snapshots"
    job = _done(site, "POST", path, {"name": name, "memory": False})
    (step,) = [step for step in job["steps"] if step["key"] == "snapshot"]
    return str(step["note"])
