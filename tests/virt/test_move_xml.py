"""A domain's XML for another host: its files lie elsewhere there."""

from __future__ import annotations

from lxml import etree

from hosts.virt.xml.moves import moved

XML = """
<domain type="kvm">
  <os><nvram template="/usr/share/OVMF/VARS.fd">/pool/kvmweb-1-nvram.fd</nvram></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="file" device="disk">
      <source file="/pool/kvmweb-1-vda.qcow2"/>
      <backingStore type="file"><format type="qcow2"/>
        <source file="/pool/kvmweb-image-2.qcow2"/><backingStore/></backingStore>
    </disk>
    <disk type="file" device="cdrom"><source file="/mnt/by-hand.iso"/></disk>
    <serial type="pty"><log file="/pool/kvmweb-1-serial.log" append="on"/></serial>
  </devices>
</domain>
"""


def test_each_file_of_a_pool_is_in_the_other_hosts_pool() -> None:
    root = etree.fromstring(moved(XML, {"/pool": "/srv/disks/"}))
    assert [one.get("file") for one in root.iter("source", "log")] == [
        "/srv/disks/kvmweb-1-vda.qcow2",
        "/srv/disks/kvmweb-image-2.qcow2",
        "/mnt/by-hand.iso",
        "/srv/disks/kvmweb-1-serial.log",
    ]
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert nvram.text == "/srv/disks/kvmweb-1-nvram.fd"
    assert nvram.get("template") == "/usr/share/OVMF/VARS.fd"  # each host has its own firmware


def test_the_other_host_has_an_emulator_of_its_own() -> None:
    assert etree.fromstring(moved(XML, {})).find("devices/emulator") is None
