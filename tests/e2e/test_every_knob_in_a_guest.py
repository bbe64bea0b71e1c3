"""What was asked for at *Advanced*, as the guest itself and its host see it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guests import virsh
from tests.e2e.site import TEAM, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 240  # emulated beside others
POOL = "/var/lib/libvirt/images"


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


def done(site: Site, answer: dict[str, Any]) -> dict[str, Any]:
    (job,) = site.stack.wait_final(answer, timeout_s=BOOT_S)
    assert job["state"] == "succeeded", job
    return answer


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
