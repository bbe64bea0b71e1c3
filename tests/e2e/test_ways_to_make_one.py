"""Ways to make a machine, and to get one back, on a real libvirt."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.guests import Guest
from tests.e2e.site import TEAM, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 120
# As an installer's end: it has run from the disc, and restarts the machine.
GRUB = "set timeout=0\nmenuentry x { sleep 4; reboot }\n"


@pytest.fixture
def name() -> str:
    return f"way-{secrets.token_hex(3)}"


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootable ISO, made by Debian's grub-mkrescue."""
    tree = tmp_path_factory.mktemp("disc")
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(GRUB)
    path = tree.parent / "installer.iso"
    subprocess.run(["grub-mkrescue", "-o", path, tree], check=True, capture_output=True)
    return path


def off(site: Site, guest: Guest) -> None:
    answer = site.stack.api("POST", f"/vms/{guest.uuid}/force-off")
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job


def host_key(guest: Guest) -> str:
    address = guest.facts()["addresses"][0]
    scan = guest.lab.exec(guest.host, "ssh-keyscan", "-t", "ed25519", address, check=False)
    found: str = scan.stdout
    assert "ssh-ed25519" in found, scan.stderr
    return found.split("ssh-ed25519", 1)[1].strip()


def download(site: Site, guest: Guest, asked: str) -> bytes:
    answer = httpx.get(
        f"{site.stack.url}/api/v1/vms/{guest.uuid}/backups/1/file",
        headers={
            "Authorization": f"Bearer {site.stack.tokens['owner']}",
            **({"Range": asked} if asked else {}),
        },
        timeout=120,
    )
    assert answer.status_code == (206 if asked else 200), answer.text[:500]
    return answer.content


def test_from_a_disc_that_is_out_after_the_first_reboot(site: Site, disc: Path, name: str) -> None:
    site.manage("add_image", "--file", str(disc), "--name", f"Disc {name}", "--publish")
    answer = site.stack.create(name=name, team=TEAM, image=f"Disc {name}", ssh_keys=[])
    guest = site.guest(answer["vm"]["uuid"])
    guest.wait(lambda: guest.facts()["state"] == "running", "it runs", timeout_s=BOOT_S)
    assert guest.facts()["disc"] == f"Disc {name}"
    xml = guest.virsh("dumpxml")
    assert xml.index("<boot order='2'/>") < xml.index("<boot order='1'/>")  # disk, then disc
    guest.wait(lambda: guest.facts()["disc"] is None, "it is ejected", timeout_s=BOOT_S)
    assert "kvmweb-image-" not in guest.virsh("dumpxml")
    off(site, guest)


def test_a_template_and_a_machine_of_it(site: Site, name: str) -> None:
    source = site.create(name)
    source.wait_ssh(timeout_s=BOOT_S)
    source.ssh("echo golden > ~/proof && sync")
    before = host_key(source)
    off(site, source)
    answer = site.stack.api("POST", f"/vms/{source.uuid}/template", {"name": name})
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    version = answer["template"]["versions"][0]["image"]
    began = time.monotonic()
    answer = site.stack.create(
        name=f"{name}-of", team=TEAM, image=version, ssh_keys=[site.public_key], start=False
    )
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    print(f"made of a template in {time.monotonic() - began:.1f} s")  # noqa: T201
    child = site.guest(answer["vm"]["uuid"])
    site.stack.api("POST", f"/vms/{child.uuid}/start")
    child.wait_ssh(timeout_s=BOOT_S)
    assert child.ssh("cat ~/proof").stdout.strip() == "golden"
    assert host_key(child) != before
    # Made independent while it runs; then the version may go.
    (job,) = site.stack.wait_final(site.stack.api("POST", f"/vms/{child.uuid}/flatten"))
    assert job["state"] == "succeeded", job
    assert "backingStore type" not in child.virsh("dumpxml")
    assert child.ssh("cat ~/proof").stdout.strip() == "golden"


def test_deleted_and_back_with_its_data(site: Site, name: str) -> None:
    guest = site.create(name)
    guest.wait_ssh(timeout_s=BOOT_S)
    guest.ssh("echo kept > ~/proof && sync")
    before = host_key(guest)
    answer = site.stack.api("DELETE", f"/vms/{guest.uuid}?force=true")
    (job,) = site.stack.wait_final(answer)
    assert (job["kind"], job["state"]) == ("vm.bin", "succeeded")
    assert guest.state_on_host() == "shut off"
    answer = site.stack.api("POST", f"/vms/{guest.uuid}/take-back", {})
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    site.stack.api("POST", f"/vms/{guest.uuid}/start")
    guest.wait_ssh(timeout_s=BOOT_S)
    assert guest.ssh("cat ~/proof").stdout.strip() == "kept"
    assert host_key(guest) == before


def test_backed_up_while_it_runs_and_restored(site: Site, name: str) -> None:
    """Both of its disks, in a directory of the host that is no pool of its disks."""
    guest = site.create(name)
    guest.wait_ssh(timeout_s=BOOT_S)
    guest.ssh("echo saved > ~/proof && sync")
    (job,) = site.stack.wait_final(
        site.stack.api("POST", f"/vms/{guest.uuid}/disks", {"size_gib": 1})
    )
    assert job["state"] == "succeeded", job
    off(site, guest)
    second(guest, "write", 0x5A)
    site.stack.api("POST", f"/vms/{guest.uuid}/start")
    guest.wait_ssh(timeout_s=BOOT_S)
    backup_place(site, guest.host, "/var/lib/libvirt/vault")
    try:
        answer = site.stack.api("POST", f"/vms/{guest.uuid}/backups")
        (job,) = site.stack.wait_final(answer)
    finally:
        backup_place(site, guest.host, "")
    assert job["state"] == "succeeded", job
    assert len(guest.lab.exec(guest.host, "ls", "/var/lib/libvirt/vault").stdout.split()) == 2
    (backup,) = site.stack.api("GET", f"/vms/{guest.uuid}/backups")["items"]
    whole = download(site, guest, "")
    assert hashlib.sha256(whole).hexdigest() == backup["checksum"]
    assert download(site, guest, f"bytes={len(whole) // 2}-") == whole[len(whole) // 2 :]
    guest.ssh("echo ruined > ~/proof && sync")
    off(site, guest)
    second(guest, "write", 0)
    answer = site.stack.api("POST", f"/vms/{guest.uuid}/backups/1/restore", {})
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    second(guest, "read", 0x5A)
    answer = site.stack.api("POST", f"/vms/{guest.uuid}/start")
    guest.wait_ssh(timeout_s=BOOT_S)
    assert guest.ssh("cat ~/proof").stdout.strip() == "saved"
    assert len(guest.volumes()) <= 3  # its disks, and what keeps its serial line
    # Deleted for good but for its second disk, which another machine gets.
    heir = beside(site, guest, f"{name}-heir")
    answer = site.stack.api("DELETE", f"/vms/{guest.uuid}?force=true&purge=true&keep=vdb")
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    kept = next(one for one in site.stack.api("GET", "/backups")["items"] if not one["has_system"])
    path = f"/vms/{guest.uuid}/backups/{kept['number']}/attach"
    (job,) = site.stack.wait_final(site.stack.api("POST", path, {"vm": heir.uuid}))
    assert job["state"] == "succeeded", job
    second(heir, "read", 0x5A)


def beside(site: Site, guest: Guest, name: str) -> Guest:
    """A machine on the same host, that is off."""

    def others(mode: str) -> None:
        of_others = f"Host.objects.exclude(name={guest.host!r})"
        words = f"from hosts.models import Host; {of_others}.update(mode={mode!r})"
        site.manage("shell", "-c", words)

    others("maintenance")
    try:
        return site.create(name, start=False)
    finally:
        others("active")


def second(guest: Guest, verb: str, pattern: int) -> None:
    """Its second disk, while it is off: a MiB of this byte is written, or looked for."""
    path = guest.virsh("domblklist").split("vdb", 1)[1].split()[0]
    done = guest.lab.exec(
        guest.host, "qemu-io", "-f", "qcow2", "-c", f"{verb} -P {pattern} 0 1M", path
    )
    assert "failed" not in done.stdout, done.stdout


def backup_place(site: Site, host: str, folder: str) -> None:
    """A directory of the host; "": beside the disks."""
    words = (
        "from hosts.models import Host; from hosts import services; "
        f"host = Host.objects.get(name={host!r}); "
    )
    if folder:
        words += f"services.use_backup_folder(host.pk, {folder!r}, None)"
    else:
        words += "services.set_backup_place(host, None, actor=None)"
    site.manage("shell", "-c", words)
