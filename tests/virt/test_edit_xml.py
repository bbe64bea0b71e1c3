"""Edits of a domain's own XML change what they must, and keep what an admin set by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lxml import etree

from hosts.virt.spec import CdromSpec, NicSpec
from hosts.virt.xml import edits
from hosts.virt.xml.domain import domain_xml
from tests.virt.shapes import DOMAINS, PATHS

Check = Callable[[str, str], None]
SPEC = DOMAINS["domain-emulated"]
BY_HAND = """<domain type="qemu">
  <name>frodo</name>
  <uuid>5f1b3c52-8f0e-4a3e-9d51-0c6a2f6f7a11</uuid>
  <metadata>
    <other:note xmlns:other="https://example.org/notes">kept</other:note>
  </metadata>
  <memory unit="KiB">524288</memory>
  <currentMemory unit="KiB">524288</currentMemory>
  <vcpu placement="static" cpuset="0-1" current="1">2</vcpu>
  <os>
    <type arch="x86_64" machine="pc-q35-7.2">hvm</type>
  </os>
  <cpu mode="custom" match="exact">
    <model>Nehalem</model>
  </cpu>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="writeback" io="threads"/>
      <source file="/var/lib/libvirt/images/old"/>
      <backingStore/>
      <target dev="vda" bus="virtio"/>
      <iotune>
        <total_iops_sec>500</total_iops_sec>
      </iotune>
    </disk>
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw"/>
      <source file="/var/lib/libvirt/images/frodo-seed"/>
      <target dev="sda" bus="scsi"/>
      <readonly/>
    </disk>
    <interface type="direct">
      <mac address="52:54:00:aa:bb:cc"/>
      <source dev="eth1" mode="bridge"/>
    </interface>
    <interface type="network">
      <mac address="52:54:00:aa:bb:cd"/>
      <source network="default" portid="x"/>
      <model type="virtio"/>
    </interface>
    <hostdev mode="subsystem" type="usb">
      <source>
        <vendor id="0x1234"/>
        <product id="0xbeef"/>
      </source>
    </hostdev>
  </devices>
</domain>
"""


def test_bring_a_hand_made_domain_in_line(golden: Check, schema: Check) -> None:
    spec = replace(
        SPEC, nics=(*SPEC.nics, NicSpec(mac="52:54:00:aa:bb:cd", network="lab")), memory_mib=1024
    )
    text = edits.with_spec(BY_HAND, spec, PATHS)
    golden("edit-in-line", text)
    schema("domain", text)
    for kept in ("other:note", "iotune", "Nehalem", "hostdev", 'io="threads"', 'type="direct"'):
        assert kept in text, f"{kept} was an admin's"
    root = etree.fromstring(text)
    assert root.findtext("memory") == "1024"
    assert root.find("vcpu").get("cpuset") == "0-1"
    assert [disk.find("source").get("file") for disk in root.iter("disk")] == [
        "/var/lib/libvirt/images/frodo",
        "/var/lib/libvirt/images/frodo-seed",
    ]


def test_nothing_to_do_changes_nothing() -> None:
    text = domain_xml(SPEC, PATHS)
    assert edits.with_spec(text, SPEC, PATHS) == text


def test_another_acceleration_brings_another_cpu() -> None:
    text = edits.with_spec(domain_xml(SPEC, PATHS), replace(SPEC, domain_type="kvm"), PATHS)
    root = etree.fromstring(text)
    assert root.get("type") == "kvm"
    assert [cpu.get("mode") for cpu in root.iter("cpu")] == ["host-passthrough"]


def test_texts_that_became_empty_go() -> None:
    text = edits.with_spec(domain_xml(SPEC, PATHS), replace(SPEC, title="", description=""), PATHS)
    assert "<title>" not in text
    assert "<description>" not in text


def test_an_emptied_tray_stays_a_tray(schema: Check) -> None:
    text = edits.with_spec(domain_xml(SPEC, PATHS), replace(SPEC, cdroms=(CdromSpec(),)), PATHS)
    schema("domain", text)
    assert "frodo-seed" not in text
    assert 'device="cdrom"' in text


def test_eject(golden: Check) -> None:
    ejected = edits.ejected_cdrom(BY_HAND, "sda")
    assert ejected is not None
    golden("edit-ejected-cdrom", ejected)
    assert edits.ejected_cdrom(BY_HAND.replace("frodo-seed", "x"), "sdb") is None
    assert edits.ejected_cdrom(BY_HAND, "vda") is None  # a disk has no tray
    empty = edits.with_spec(BY_HAND, replace(SPEC, cdroms=(CdromSpec(),)), PATHS)
    assert edits.ejected_cdrom(empty, "sda") is None


def test_from_its_kernel_to_its_disk(golden: Check, schema: Check) -> None:
    ended = edits.without_kernel(domain_xml(DOMAINS["domain-preseed"], PATHS))
    assert ended is not None
    golden("edit-without-kernel", ended)
    schema("domain", ended)
    assert "frodo-initrd" not in ended
    assert edits.without_kernel(ended) is None
