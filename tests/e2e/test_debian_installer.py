"""Debian's own installer, unattended: it reads the preseed that the site puts into its initrd."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.e2e.guests import Guest
from tests.e2e.site import TEAM, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

PACKAGE = "debian-installer-12-netboot-amd64"
IN_PACKAGE = "./usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
INSTALLER_S = 240
# The hook that Debian's manual names for commands: it runs in the installer, before any question.
# What it writes is what the installer itself has read of the file; then the guest restarts.
PRESEED = """\
d-i netcfg/get_hostname string {word}
d-i preseed/early_command string \\
  echo "preseeded: $(debconf-get netcfg/get_hostname) $(cat /proc/cmdline)" > /dev/ttyS0; \\
  reboot -f
"""
# Writes DISK to the serial line and halts: 16 bits, as the firmware starts it.
#   mov dx, 0x3f8; mov al, letter; out dx, al; ...; cli; hlt
BOOT_SECTOR = (
    b"\xba\xf8\x03"
    + b"".join(b"\xb0" + bytes([letter]) + b"\xee" for letter in b"DISK\r\n")
    + b"\xfa\xf4"
).ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture(scope="module")
def installer() -> Path:
    """A folder with the installer's ``linux`` and ``initrd.gz``, kept from one run to the next."""
    cache = Path(os.environ.get("KVMWEB_CACHE", Path.home() / ".cache/kvmweb"))
    folder = cache / PACKAGE
    if (folder / "initrd.gz").exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fetch = ["timeout", "180", "apt-get", "download", "-q", PACKAGE]
        if subprocess.run(fetch, cwd=scratch, capture_output=True, check=False).returncode:
            pytest.skip(f"apt does not get {PACKAGE} here")
        (package,) = Path(scratch).glob("*.deb")
        wanted = f"{IN_PACKAGE}/linux {IN_PACKAGE}/initrd.gz"
        unpack = f"dpkg-deb --fsys-tarfile {package.name} | tar -x {wanted}"
        subprocess.run(["bash", "-ec", unpack], cwd=scratch, check=True, capture_output=True)
        if not folder.exists():
            (Path(scratch) / IN_PACKAGE).rename(folder)
    return folder


@pytest.fixture(scope="module")
def disc(installer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as Debian's netinst is."""
    tree = tmp_path_factory.mktemp("netinst")
    for folder in ("boot/grub", "install.amd", ".disk"):
        (tree / folder).mkdir(parents=True)
    (tree / ".disk/info").write_text('Debian GNU/Linux 12 "Bookworm" - amd64 NETINST\n')
    (tree / "boot/grub/grub.cfg").write_text("set timeout=0\nmenuentry x { sleep 3600 }\n")
    shutil.copy(installer / "linux", tree / "install.amd/vmlinuz")
    shutil.copy(installer / "initrd.gz", tree / "install.amd/initrd.gz")
    path = tree.parent / "netinst.iso"
    subprocess.run(["grub-mkrescue", "-o", path, tree], check=True, capture_output=True)
    return path


def said(guest: Guest) -> str:
    log = f"/var/lib/libvirt/images/kvmweb-{guest.uuid}-serial.log"
    return str(guest.lab.exec(guest.host, "cat", log).stdout)


def test_from_the_preseed_to_the_disk(site: Site, disc: Path, tmp_path: Path) -> None:
    name = f"netinst-{secrets.token_hex(3)}"
    site.manage("add_image", "--file", str(disc), "--name", f"Debian {name}", "--publish")
    answer = site.stack.create(
        name=name,
        team=TEAM,
        image=f"Debian {name}",
        ssh_keys=[],
        memory_mib=768,
        start=False,
        answers={"kind": "preseed", "text": PRESEED.format(word=name)},
    )
    (job,) = site.stack.wait_final(answer, timeout_s=120)
    assert job["state"] == "succeeded", job
    guest = site.guest(answer["vm"]["uuid"])
    installers = {f"kvmweb-{guest.uuid}-{part}" for part in ("kernel", "initrd")}
    assert installers <= guest.volumes()
    # What a real installation would leave, for the boot after it.
    sector = tmp_path / "sector"
    sector.write_bytes(BOOT_SECTOR)
    disk = f"/var/lib/libvirt/images/kvmweb-{guest.uuid}-vda.qcow2"
    write = ("qemu-io", "-f", "qcow2", "-c", f"write -s {sector} 0 512", disk)
    assert "wrote 512/512" in guest.lab.exec(guest.host, *write).stdout
    (job,) = site.stack.wait_final(site.stack.api("POST", f"/vms/{guest.uuid}/start"))
    assert job["state"] == "succeeded", job
    guest.wait(lambda: "preseeded: " in said(guest), "the installer reads", timeout_s=INSTALLER_S)
    (line,) = (line for line in said(guest).splitlines() if "preseeded: " in line)
    assert f"preseeded: {name} " in line
    assert "auto=true priority=critical" in line
    guest.wait(lambda: guest.facts()["disc"] is None, "the disc is out", timeout_s=60)
    guest.wait(lambda: "DISK" in said(guest), "it starts from its disk", timeout_s=60)
    guest.wait_idle()
    assert guest.facts()["state"] == "running"
    for scope in ((), ("--inactive",)):
        xml = guest.virsh("dumpxml", *scope)
        assert "<kernel>" not in xml
        assert "kvmweb-image-" not in xml
        assert "<on_reboot>restart</on_reboot>" in xml
    assert not installers & guest.volumes()
    (job,) = site.stack.wait_final(site.stack.delete(guest.uuid))
    assert job["state"] == "succeeded", job
