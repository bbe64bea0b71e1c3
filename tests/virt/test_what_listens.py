"""Screens and serial lines that the network can reach are found in the live XML."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from hosts.virt import exposure
from hosts.virt.client import LibvirtHypervisor
from tests.lab.conftest import RunningLab

SOCKET = """<graphics type='vnc' socket='/var/lib/libvirt/qemu/domain-1-a/vnc.sock'>
  <listen type='socket' socket='/var/lib/libvirt/qemu/domain-1-a/vnc.sock'/></graphics>"""
LOOPBACK = """<graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>
  <listen type='address' address='127.0.0.1'/></graphics>"""
EVERYWHERE = """<graphics type='vnc' port='5901' autoport='yes' websocket='5701' listen='0.0.0.0'>
  <listen type='address' address='0.0.0.0'/></graphics>"""
ON_A_NETWORK = """<graphics type='spice' port='5902' tlsPort='5903' autoport='yes'>
  <listen type='network' address='192.168.122.1' network='default'/></graphics>"""
IPV6 = """<graphics type='vnc' port='5904' listen='::'/>"""
LOOPBACK6 = """<graphics type='vnc' port='5904' listen='::1'/>"""
NOT_RUNNING = """<graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0'/>"""
PTY = "<serial type='pty'><source path='/dev/pts/1'/></serial>"
TCP = "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/></serial>"
TCP_HERE = "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/></serial>"
TCP_OUT = "<serial type='tcp'><source mode='connect' host='192.0.2.1' service='4555'/></serial>"
UDP = "<console type='udp'><source mode='bind' service='4556'/></console>"
CHANNEL = "<channel type='unix'><source mode='bind' path='/run/x.sock'/></channel>"


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        (SOCKET + PTY + CHANNEL, []),
        (LOOPBACK, []),
        (LOOPBACK6, []),
        (NOT_RUNNING, []),
        (TCP_HERE + TCP_OUT, []),
        ("<graphics type='vnc' port='5900'><listen type='none'/></graphics>", []),
        (EVERYWHERE, ["VNC on 0.0.0.0:5901", "VNC on 0.0.0.0:5701"]),
        (ON_A_NETWORK, ["SPICE on 192.168.122.1:5902", "SPICE on 192.168.122.1:5903"]),
        (IPV6, ["VNC on :::5904"]),
        ("<graphics type='vnc' port='5900'/>", ["VNC on ?:5900"]),
        (TCP + TCP.replace("serial", "console"), ["serial line on 0.0.0.0:4555"]),
        (UDP, ["serial line on 0.0.0.0:4556"]),
    ],
)
def test_what_is_exposed(devices: str, found: list[str]) -> None:
    assert exposure.exposed(f"<domain><devices>{devices}</devices></domain>") == found


def test_the_finding_names_the_first_and_counts_the_rest() -> None:
    assert exposure.check({"a": []}).result == "pass"
    check = exposure.check({f"m{n}": ["VNC on 0.0.0.0:1"] for n in range(7)} | {"quiet": []})
    assert check.result == "fail"
    assert check.params["machines"].startswith("m0 (VNC on 0.0.0.0:1), m1")
    assert check.params["machines"].endswith("… +2")


DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>48</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    {serial}
    <graphics type='vnc' autoport='yes'>{listen}</graphics>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""
OPEN_SERIAL = "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/></serial>"


def listening(lab: RunningLab, host: str) -> list[str]:
    """The addresses at which a QEMU of this host listens, as its kernel says."""
    said = lab.exec(host, "ss", "-H", "-l", "-n", "-t", "-u", "-p").stdout
    return [line.split()[4] for line in said.splitlines() if "qemu-system" in line]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("listen", "serial", "is_open"),
    [
        ("<listen type='socket'/>", "<serial type='pty'/>", False),
        ("<listen type='address' address='0.0.0.0'/>", OPEN_SERIAL, True),
    ],
    ids=["as this site makes them", "open"],
)
def test_the_live_xml_and_the_kernel_agree(
    lab: RunningLab, tmp_path: Path, listen: str, serial: str, is_open: bool
) -> None:
    name = f"listens-{uuid.uuid4().hex[:6]}"
    xml = tmp_path / "domain.xml"
    xml.write_text(DOMAIN.format(name=name, uuid=uuid.uuid4(), listen=listen, serial=serial))
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    lab.virsh("a", "create", str(xml))
    try:
        check = hypervisor.exposure()
        named = re.findall(rf"{name} \(([^)]*)\)", check.params.get("machines", ""))
        addresses = listening(lab, "a")
        if is_open:
            assert check.result == "fail"
            assert sorted(re.findall(r":(\d+)", named[0])) == sorted(
                address.rpartition(":")[2] for address in addresses
            )
        else:
            assert (named, addresses) == ([], [])
    finally:
        lab.run("virsh", "a", "destroy", name, check=False)
        hypervisor.close()
