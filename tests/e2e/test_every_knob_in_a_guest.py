"""What was asked for at *Advanced*, as the guest itself and its host see it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest, virsh
from tests.e2e.site import TEAM, People, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 240  # OVMF with Secure Boot, emulated beside others
POOL = "/var/lib/libvirt/images"
WATCHDOG = "0x8086 0x25ab"  # Intel's 6300ESB: the cloud kernel has no driver for it
# UEFI's variable SecureBoot: four bytes of attributes, and its value.
SECURE = "od -An -tu1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# In the last part of its variables' file, which it uses only while it writes.
WORD, SPARE = "what-uefi-remembers", 500_000
PCI = "cd /sys/bus/pci/devices && for d in *; do echo $(cat $d/vendor $d/device); done"


TFTP = "/var/lib/libvirt/images/tftp"
BOOTED = "GNU GRUB"
PXE_NETWORK = f"""
<network>
  <name>boots</name>
  <bridge name="virbr7"/>
  <ip address="192.168.177.1" netmask="255.255.255.0">
    <tftp root="{TFTP}"/>
    <dhcp>
      <range start="192.168.177.2" end="192.168.177.99"/>
      <bootp file="boot.0"/>
    </dhcp>
  </ip>
</network>
"""


@pytest.fixture
def boots(site: Site, tmp_path: Path) -> Iterator[str]:
    """A network of host a whose DHCP names GRUB, which greets on the serial line."""
    config = tmp_path / "early.cfg"
    config.write_text("serial --unit=0 --speed=115200\nterminal_output serial\n")
    image = tmp_path / "boot.0"
    modules = ["serial", "terminal", "normal", "pxe"]
    words: list[str | Path] = [
        "grub-mkimage",
        "-O",
        "i386-pc-pxe",
        "-p",
        "/",
        "-c",
        config,
        "-o",
        image,
        *modules,
    ]
    subprocess.run(words, check=True, capture_output=True)
    definition = tmp_path / "boots.xml"
    definition.write_text(PXE_NETWORK)
    site.lab.exec("a", "install", "-D", "-m", "644", str(image), f"{TFTP}/boot.0")
    virsh(site.lab, "a", "net-define", str(definition))
    virsh(site.lab, "a", "net-start", "boots")
    (host,) = [
        h for h in site.stack.api("GET", "/hosts", user="admin")["items"] if h["name"] == "a"
    ]

    def is_known() -> bool:
        found = site.stack.api("GET", f"/hosts/{host['id']}", user="admin")["networks"]
        return any(network["name"] == "boots" and network["pxe"] for network in found)

    site.stack.wait(is_known, "the site has seen the network", timeout_s=150)
    yield "boots"
    virsh(site.lab, "a", "net-destroy", "boots")
    virsh(site.lab, "a", "net-undefine", "boots")


@pytest.fixture
def name() -> str:
    return f"knobs-{secrets.token_hex(3)}"


def ask(site: Site, name: str, **wanted: Any) -> Guest:
    answer = site.stack.create(name=name, team=TEAM, ssh_keys=[site.public_key], **wanted)
    return site.guest(answer["vm"]["uuid"])


def done(site: Site, answer: dict[str, Any]) -> dict[str, Any]:
    (job,) = site.stack.wait_final(answer, timeout_s=BOOT_S)
    assert job["state"] == "succeeded", job
    return answer


def said(guest: Guest, command: str) -> str:
    text: str = guest.ssh(command).stdout
    return text.strip()


def nvram(guest: Guest) -> str:
    return f"{POOL}/kvmweb-{guest.uuid}-nvram.fd"


def fill_in(page: Page, name: str) -> None:
    """An empty machine with many knobs, by the parts of the page that a person opens for them."""
    page.locator("label", has_text="Empty disk").click()
    page.fill("#id_name", name)
    page.uncheck("input[name=start]")
    for part in ("Advanced", "Processor and firmware", "Disks and discs", "Network cards"):
        page.locator("summary", has_text=part).click()
    page.locator("summary", has_text="Devices and start").click()
    page.locator("summary:visible", has_text="Add a disk").click()
    page.locator("summary:visible", has_text="Add a network card").click()
    for field, word in (
        ("firmware", "uefi"),
        ("tpm", "yes"),
        ("cpu_mode", "custom"),
        ("disk2_bus", "scsi"),
        ("disk2_cache", "none"),
        ("nic2_network", "default"),
        ("nic2_model", "e1000e"),
        ("watchdog", "reset"),
        ("video", "vga"),
    ):
        page.select_option(f"#id_{field}", word)
    for field, word in (("cpu_model", "qemu64"), ("disk2_gib", "2")):
        page.fill(f"#id_{field}", word)
    page.check("input[name=leave_out][value=rng]")


def built(definition: str) -> dict[str, list[str]]:
    root = etree.fromstring(definition.encode())

    def said(path: str) -> list[str]:
        found: Any = root.xpath(path)
        return [str(value) for value in found]

    disk = "devices/disk[@device='disk']"
    return {
        "firmware": said("os/@firmware"),
        "loader": said("os/loader/text()"),
        "machine": said("os/type/@machine"),
        "vcpus": (said("vcpu/@current") or said("vcpu/text()")),
        "memory": said("currentMemory/text()"),
        "cpu": said("cpu/model/text()"),
        "tpm": said("devices/tpm/@model") + said("devices/tpm/backend/@version"),
        "disks": sorted(said(f"{disk}/target/@bus")),
        "caches": said(f"{disk}/driver/@cache"),
        "drives": said("devices/disk[@device='cdrom']/target/@bus"),
        "cards": said("devices/interface/model/@type"),
        "watchdog": said("devices/watchdog/@action"),
        "rng": said("devices/rng/@model"),
        "video": said("devices/video/model/@type"),
        "vnc": said("devices/graphics/listen/@type"),
        "sound": said("devices/sound/@model"),
    }


def test_the_form_and_its_line_make_the_same_machine(site: Site, people: People, name: str) -> None:
    page = people.page("owner", "/machines/new/")
    fill_in(page, name)
    lines = page.locator("#command-lines")
    for words in (f"--name {name}", "qemu64", "e1000e", "i6300esb", "--rng none", "cache=none"):
        expect(lines).to_contain_text(words)
    script = str(page.locator("#show-command [data-copy]").get_attribute("data-copy"))
    ran = site.lab.exec("a", "bash", "-ec", f"cd $(mktemp -d)\n{script}", check=False, timeout_s=90)
    assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
    by_hand = built(virsh(site.lab, "a", "dumpxml", "--inactive", name))
    virsh(site.lab, "a", "undefine", "--nvram", "--remove-all-storage", name)
    assert (by_hand["tpm"], by_hand["caches"]) == (["tpm-crb", "2.0"], ["none"])
    assert by_hand["disks"] == ["scsi", "virtio"]
    page.get_by_role("button", name="Create machine").click()
    page.wait_for_url(lambda url: "/machines/new" not in url)
    guest = site.guest(page.url.split("/machines/")[1].split("/")[0])
    guest.wait_state("shutoff")
    guest.wait_free(timeout_s=60)
    by_site = built(guest.virsh("dumpxml", "--inactive"))
    assert {
        key: (by_hand[key], by_site[key]) for key in by_hand if by_hand[key] != by_site[key]
    } == {}
    done(site, site.stack.delete(guest.uuid))


def test_the_guest_has_what_was_asked_for(site: Site, name: str) -> None:
    has = site.lab.virsh("a", "domcapabilities", "--virttype", "qemu", "--machine", "q35")
    if "OVMF" not in has or "<value>emulator</value>" not in has:
        pytest.skip("no OVMF or no swtpm on this host")
    new = ask(
        site,
        name,
        memory_mib=384,  # OVMF wants more than the guest itself
        hardware={"firmware": "secureboot", "tpm": True, "watchdog": "poweroff"},
        disk={"cache": "none", "io": "native"},
        disks=[{"size_gib": 2, "bus": "scsi", "cache": "writeback"}],
        nics=[{"network": "default"}],
        boot=["disk"],
    )
    old = ask(
        site,
        f"{name}-old",
        vcpus=2,
        memory_mib=256,
        hardware={
            "machine": "pc",
            "firmware": "uefi",
            "cpu_mode": "custom",
            "cpu_model": "Nehalem",
            "sockets": 1,
            "cores": 2,
            "threads": 1,
            "rng": False,
        },
    )
    new.wait_ssh(timeout_s=BOOT_S)
    assert said(new, SECURE).split()[-1] == "1"
    assert said(new, "cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
    assert said(new, "cat /sys/class/misc/hw_random/rng_available").startswith("virtio_rng")
    devices = said(new, PCI)
    assert WATCHDOG in devices
    assert devices.count("0x1af4 0x1041") == 2  # two virtio cards
    assert said(new, "cat /sys/block/sda/size") == str(2 * 1024**3 // 512)
    assert said(new, "cat /sys/class/dmi/id/product_name").startswith("Standard PC (Q35")
    xml = new.virsh("dumpxml")
    for words in ("cache='none' io='native'", "cache='writeback'", "action='poweroff'"):
        assert words in xml
    assert xml.count("<boot order='1'/>") == 1
    assert nvram(new) in xml

    old.wait_ssh(timeout_s=BOOT_S)
    assert said(old, SECURE).split()[-1] == "0"
    assert "i440FX" in said(old, "cat /sys/class/dmi/id/product_name")
    assert "Nehalem" in said(old, "grep -m1 'model name' /proc/cpuinfo")
    assert said(old, "grep -m1 'cpu cores' /proc/cpuinfo").endswith("2")
    assert said(old, "ls -d /sys/class/tpm/tpm0 2>/dev/null") == ""
    assert "virtio_rng" not in said(old, "cat /sys/class/misc/hw_random/rng_available")

    # What its firmware remembers goes with copies, comes back, and goes with the machine.
    done(site, site.stack.api("POST", f"/vms/{old.uuid}/force-off"))
    mark = f"printf {WORD} | dd of={nvram(old)} bs=1 seek={SPARE} conv=notrunc"
    site.lab.exec(old.host, "sh", "-c", mark)
    wanted = {"name": f"{name}-clone", "copy": "linked", "start": False}
    answer = done(site, site.stack.api("POST", f"/vms/{old.uuid}/clone", wanted))
    clone = site.guest(answer["vm"]["uuid"])
    assert site.lab.exec(clone.host, "cmp", nvram(old), nvram(clone), check=False).returncode == 0
    done(site, site.stack.api("POST", f"/vms/{clone.uuid}/start"))
    copies = [clone, *kept_and_made_again(site, old, name)]
    clone.wait_ssh(timeout_s=BOOT_S)
    for guest in (new, old, *copies):
        host = guest.host
        done(site, site.stack.delete(guest.uuid))
        held = site.lab.exec(host, "find", "/var/lib/libvirt", "-name", f"*{guest.uuid}*").stdout
        assert held.strip() == ""


def kept_and_made_again(site: Site, old: Guest, name: str) -> list[Guest]:
    """Machines from a backup and from a template of it, with its variables; itself, ruined and
    restored. Nothing of the backup and the template stays."""
    stack = site.stack
    done(site, stack.api("POST", f"/vms/{old.uuid}/backups", {}))
    (kept,) = stack.api("GET", f"/vms/{old.uuid}/backups")["items"]
    assert kept["nvram"] in site.lab.exec(old.host, "sha256sum", nvram(old)).stdout.split()
    wanted = {"name": f"{name}-restored"}
    answer = done(site, stack.api("POST", f"/vms/{old.uuid}/backups/1/restore", wanted))
    restored = site.guest(answer["vm"])
    kept = done(site, stack.api("POST", f"/vms/{old.uuid}/template", {"name": name}))["template"]
    answer = stack.create(
        name=f"{name}-child",
        team=TEAM,
        ssh_keys=[site.public_key],
        image=kept["versions"][0]["image"],
        memory_mib=256,
        start=False,
    )
    child = site.guest(done(site, answer)["vm"]["uuid"])
    ruin = ["dd", "if=/dev/zero", f"of={nvram(old)}", "bs=4k", "count=8", "conv=notrunc"]
    site.lab.exec(old.host, *ruin)
    done(site, stack.api("POST", f"/vms/{old.uuid}/backups/1/restore", {}))
    for guest in (old, restored, child):
        assert site.lab.exec(guest.host, "grep", "-c", "-a", WORD, nvram(guest)).stdout.strip()
        compared = site.lab.exec(guest.host, "cmp", nvram(old), nvram(guest), check=False)
        assert compared.returncode == 0, (guest.uuid, compared.stdout)
    done(site, stack.api("DELETE", f"/vms/{old.uuid}/backups/1"))
    done(site, stack.delete(child.uuid))
    done(site, stack.api("DELETE", f"/templates/{kept['id']}/versions/1"))
    return [restored]


def test_an_empty_machine_boots_over_the_network(site: Site, boots: str, name: str) -> None:
    wanted = {"image": None, "boot": ["network", "disk"], "ssh_keys": [], "name": name}
    small = {"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "team": TEAM}
    with pytest.raises(AssertionError, match="boot_no_pxe"):  # nobody answers on this one
        site.stack.api("POST", "/vms", wanted | small | {"network": "default"})
    answer = site.stack.api("POST", "/vms", wanted | small | {"network": boots})
    guest = site.guest(answer["vm"]["uuid"])
    log = f"{POOL}/kvmweb-{guest.uuid}-serial.log"

    def says_so() -> bool:
        return BOOTED in site.lab.exec("a", "cat", log, check=False).stdout

    guest.wait(says_so, "the file from the network runs", timeout_s=BOOT_S)
    guest.wait_free(timeout_s=60)
    done(site, site.stack.delete(guest.uuid))
