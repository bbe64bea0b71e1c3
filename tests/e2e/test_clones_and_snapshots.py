"""What was written in the guest is there after a snapshot, a return and a clone."""

from __future__ import annotations

import json
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guests import Guest, virsh
from tests.e2e.site import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

BOOT_S = 120
DEBIAN_BOOT_S = 420


def do(site: Site, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask, and wait until it is done."""
    answer: dict[str, Any] = site.stack.api(method, path, {} if body is None else body)
    (job,) = site.stack.wait_final(answer, timeout_s=DEBIAN_BOOT_S)
    assert job["state"] == "succeeded", job
    return answer


def write(guest: Guest, text: str) -> None:
    done = guest.ssh(f"echo {text} > note && sync")
    assert done.returncode == 0, done


def read(guest: Guest) -> str:
    return guest.ssh("cat note").stdout.strip()


def delete(site: Site, *guests: Guest) -> None:
    for guest in guests:
        guest.wait_free(timeout_s=BOOT_S)
    site.stack.wait_final(*[site.stack.delete(guest.uuid) for guest in guests])


def test_back_and_forth(site: Site) -> None:
    name = f"snap-{secrets.token_hex(3)}"
    guest = site.create(name)
    guest.wait_ssh(timeout_s=BOOT_S)
    path = f"/vms/{guest.uuid}/snapshots"

    write(guest, "good")
    guest.ssh("(while true; do sleep 1; done) & echo $! > /tmp/pid")  # lives in memory only
    memory = do(site, "POST", path, {"name": "memory"})["snapshot"]
    write(guest, "better")
    disks = do(site, "POST", path, {"name": "disks", "memory": False})["snapshot"]
    write(guest, "broken")

    do(site, "POST", f"{path}/{disks}/revert", {"start": True})
    guest.wait_ssh(timeout_s=BOOT_S)
    assert read(guest) == "better"
    do(site, "POST", f"{path}/{memory}/revert")
    guest.wait_ssh(timeout_s=BOOT_S)
    assert read(guest) == "good"
    assert guest.ssh("kill -0 $(cat /tmp/pid)").returncode == 0, "it did not go on, it booted"

    # A clone of the one that runs, then of the older state of the one that is off.
    write(guest, "now")
    running = do(site, "POST", f"/vms/{guest.uuid}/clone", {"name": f"{name}-r", "copy": "linked"})
    clone = site.guest(running["vm"]["uuid"])
    clone.wait_ssh(timeout_s=BOOT_S)
    assert read(clone) == "now"
    assert read(guest) == "now"
    site.stack.wait_final(site.stack.api("POST", f"/vms/{guest.uuid}/force-off"))
    wanted = {"name": f"{name}-s", "snapshot": "disks", "copy": "full"}
    older = site.guest(do(site, "POST", f"/vms/{guest.uuid}/clone", wanted)["vm"]["uuid"])
    older.wait_ssh(timeout_s=BOOT_S)
    assert read(older) == "better"
    assert "full-backing-filename" not in older.disk()
    assert len({guest.facts()["mac"], clone.facts()["mac"], older.facts()["mac"]}) == 3
    listed = site.stack.api("GET", path)["items"]
    assert [one["name"] for one in listed] == ["memory", "disks"]

    do(site, "DELETE", f"{path}/{memory}")
    assert guest.virsh("snapshot-list", "--name").split() == ["disks"]
    host = guest.host
    delete(site, guest, clone, older)
    left = virsh(site.lab, host, "vol-list", "default")
    assert not any(one.uuid in left for one in (guest, clone, older)), left


@pytest.mark.debian
def test_two_clones_of_one_debian_start_together(site: Site, debian_image: Path) -> None:
    image = f"Debian {secrets.token_hex(3)}"
    words = ["--file", str(debian_image), "--name", image, "--os-id", "debian12"]
    site.manage("add_image", *words, "--default-user", "debian", "--publish")
    name = f"deb-{secrets.token_hex(3)}"
    size = {"image": image, "memory_mib": 512, "disk_gib": 4, "ssh_keys": [site.public_key]}
    source = site.guest(do(site, "POST", "/vms", _machine(name, size))["vm"]["uuid"])
    source.wait_ssh(timeout_s=DEBIAN_BOOT_S)
    write(source, "inherited")
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; hostname"
    seen = [source.ssh(identity).stdout.split()]
    stands_still_and_goes_on(site, source)
    site.stack.wait_final(site.stack.api("POST", f"/vms/{source.uuid}/shutdown"))
    source.wait_state("shutoff")

    clones = []
    for number in (1, 2):
        wanted = {"name": f"{name}-{number}", "copy": "linked", "start": False}
        answer = do(site, "POST", f"/vms/{source.uuid}/clone", wanted)
        clones.append(site.guest(answer["vm"]["uuid"]))
    jobs = [site.stack.api("POST", f"/vms/{clone.uuid}/start") for clone in clones]
    assert [job["state"] for job in site.stack.wait_final(*jobs, timeout_s=DEBIAN_BOOT_S)] == [
        "succeeded",
        "succeeded",
    ]
    for clone in clones:
        clone.wait_ssh(timeout_s=DEBIAN_BOOT_S)
        assert read(clone) == "inherited"
        seen.append(clone.ssh(identity).stdout.split())
        said = clone.ssh("cloud-init status; dbus-uuidgen --get 2>/dev/null || true").stdout
        assert "done" in said, said
    addresses = {address for clone in clones for address in clone.facts()["addresses"]}
    assert len(addresses) == 2, addresses
    machine_ids, keys, names = ({one[index] for one in seen} for index in (0, 2, -1))
    assert (len(machine_ids), len(keys), len(names)) == (3, 3, 3), seen
    delete(site, source, *clones)


def stands_still_and_goes_on(site: Site, guest: Guest) -> None:
    """Its file systems are held by the real agent for the moment of a snapshot and of a backup, and
    go on afterwards, also when the snapshot fails and when the worker is killed meanwhile."""

    def status() -> str:
        asked = '{"execute":"guest-fsfreeze-status"}'
        return str(json.loads(guest.virsh("qemu-agent-command", asked))["return"])

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = site.stack.api("POST", f"/vms/{guest.uuid}/{path}", body)
        return answer

    guest.wait(
        lambda: site.stack.api("GET", f"/vms/{guest.uuid}/guest")["observed_at"],
        "its agent has told of it",
        timeout_s=BOOT_S,
    )
    points = site.stack.failpoints
    snapshot = {"name": "held", "memory": False}
    try:
        points.write_text("vm.snapshot/frozen raise\n")
        (job,) = site.stack.wait_final(ask("snapshots", snapshot))
        assert job["state"] == "failed", job
        assert status() == "thawed"
        assert guest.virsh("snapshot-list", "--name").split() == []

        points.write_text("vm.backup/frozen hold 0\n")
        answer = ask("backups", {})
        guest.wait(lambda: status() == "frozen", "its file systems stand still", timeout_s=BOOT_S)
        for pid in site.stack.children("bulk"):
            os.kill(pid, signal.SIGKILL)
        points.unlink()
        (job,) = site.stack.wait_final(answer, timeout_s=DEBIAN_BOOT_S)
        assert job["state"] == "succeeded", job
    finally:
        points.unlink(missing_ok=True)
        points.with_name(f"{points.name}.hits").unlink(missing_ok=True)
    assert status() == "thawed"
    (backup,) = site.stack.api("GET", f"/vms/{guest.uuid}/backups")["items"]
    assert backup["frozen"], backup
    write(guest, "inherited")  # it takes writes again
    site.stack.wait_final(site.stack.api("DELETE", f"/vms/{guest.uuid}/backups/1"))


def _machine(name: str, size: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "vcpus": 1, "user": "debian", **size}
