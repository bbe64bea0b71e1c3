"""The real qemu-guest-agent of a real Debian, as the product asks it: it tells, does, hangs and
lies. Part of the test that boots that guest anyway."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from passlib.hash import sha512_crypt

from hosts.virt.client import LibvirtHypervisor
from hosts.virt.errors import AgentRefused, AgentSilent, VirtError
from tests.lab.machines import Machine, wait_for

SERVICE = "qemu-guest-agent.service"
SILENT_S = 12  # libvirt waits 5 s for an agent to say that it is there
BACK_S = 60
# An agent that keeps the protocol and says what it likes.
LIAR = r"""
import json, os
line = os.open("/dev/virtio-ports/org.qemu.guest_agent.0", os.O_RDWR)
buffer = b""
lies = {
    "guest-get-host-name": {"host-name": "<script>x</script>\u202e\u0007" + "h" * 3000},
    "guest-get-fsinfo": [{"name": "n" * 500, "mountpoint": "/<b>" + "m" * 400, "type": "t",
                          "used-bytes": 2**62, "total-bytes": 7, "disk": []}] * 200,
    "guest-get-users": [{"user": "u" * 400, "login-time": -1.5}] * 200,
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
        said = mark + json.dumps(said).encode() + b"\n"
        while said:
            said = said[os.write(line, said):]
"""


def it_tells_and_does(guest: Machine, key: Path) -> None:
    hypervisor = LibvirtHypervisor(guest.lab.host("a").uri)
    uuid = UUID(guest.uuid)

    def inside(command: str) -> str:
        return guest.ssh("anna", key, f"sudo -n sh -c {command!r}").stdout

    facts = hypervisor.guest_facts(uuid)
    assert (facts.hostname, facts.os_id) == ("web1", "debian")
    (root,) = [one for one in facts.filesystems if one.mountpoint == "/"]
    assert root.used_bytes is not None
    assert root.total_bytes is not None
    assert 0 < root.used_bytes < root.total_bytes
    assert str(guest.address()) in {address for card in facts.cards for address in card.addresses}

    hashed = sha512_crypt.hash("a new password 9")  # type: ignore[no-untyped-call]
    hypervisor.set_guest_password(uuid, "anna", hashed)
    assert inside("getent shadow anna").split(":")[1] == hashed
    with pytest.raises(AgentRefused):
        hypervisor.set_guest_password(uuid, "nobody-of-this-name", hashed)
    hypervisor.trim_guest(uuid, lambda _done, _all: None)

    assert hypervisor.freeze_guest(uuid) >= 1
    with pytest.raises(AgentRefused):
        hypervisor.freeze_guest(uuid)
    assert hypervisor.thaw_guest(uuid) >= 1
    assert hypervisor.thaw_guest(uuid) == 0
    assert inside("echo written > /root/after && cat /root/after") == "written\n"

    inside(f"systemctl kill -s STOP {SERVICE}")
    for ask in (hypervisor.guest_facts, hypervisor.freeze_guest):
        began = time.monotonic()
        with pytest.raises(AgentSilent):
            ask(uuid)
        assert time.monotonic() - began < SILENT_S
    inside(f"systemctl kill -s CONT {SERVICE}; systemctl stop {SERVICE}")
    with pytest.raises(AgentSilent):
        hypervisor.guest_facts(uuid)

    coded = base64.b64encode(LIAR.encode()).decode()
    inside(f"echo {coded} | base64 -d > /root/liar.py")
    inside("systemd-run --unit liar python3 /root/liar.py")
    _until(lambda: hypervisor.guest_facts(uuid).hostname.startswith("<script>"))
    facts = hypervisor.guest_facts(uuid)
    assert facts.hostname == ("<script>x</script>" + "h" * 3000)[:128]
    assert len(facts.filesystems) <= 32
    assert {len(one.mountpoint) for one in facts.filesystems} <= {255}
    inside(f"systemctl stop liar; systemctl start {SERVICE}")
    _until(lambda: hypervisor.guest_facts(uuid).hostname == "web1")
    hypervisor.close()


def _until(true: Callable[[], bool]) -> None:
    def now() -> bool:
        try:
            return true()
        except VirtError:
            return False

    wait_for(now, what="its agent's answer", timeout_s=BACK_S)
