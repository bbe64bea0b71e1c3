"""Settings of a domain: the edits' shapes, and the contract kept by the fake and by libvirt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from lxml import etree

from hosts.virt.errors import WrongState
from hosts.virt.spec import CdromSpec, DiskSpec, DomainSpec, DomainState, NicSpec
from hosts.virt.xml import hardware
from tests.virt.test_contract import MIB, POOL, World, world  # noqa: F401
from tests.virt.test_edit_xml import BY_HAND

Check = Callable[[str, str], None]
MAC = "52:54:00:aa:bb:cd"  # of the card in a network


# --- shapes ---------------------------------------------------------------------------------------


def test_devices_to_plug_in(golden: Check) -> None:
    golden(
        "device-disk",
        hardware.disk_xml(DiskSpec(pool="p", volume="v", target="vdb"), "/pool/data.qcow2"),
    )
    golden("device-nic", hardware.nic_xml(NicSpec(mac=MAC, network="lab", link_up=False)))


def test_devices_to_unplug_are_those_that_are_there() -> None:
    disk = hardware.disk_element(BY_HAND, "vda")
    assert disk is not None
    assert "total_iops_sec" in disk  # an admin's, and libvirt compares
    assert hardware.disk_element(BY_HAND, "sda") is None  # a CD-ROM
    assert hardware.disk_element(BY_HAND, "vdz") is None
    assert hardware.nic_element(BY_HAND, MAC.upper()) is not None
    assert hardware.nic_element(BY_HAND, "52:54:00:00:00:00") is None


def test_a_card_changed(golden: Check) -> None:
    changed = hardware.changed_nic(BY_HAND, MAC, network="lab", link_up=False)
    assert changed is not None
    golden("edit-nic", changed)
    again = BY_HAND.replace('<source network="default" portid="x"/>', '<source network="lab"/>')
    assert hardware.changed_nic(again, MAC, network="lab", link_up=True) is None
    assert hardware.changed_nic(BY_HAND, MAC, network=None, link_up=True) is None
    # Another kind of card is an admin's: only its cable is ours.
    macvtap = hardware.changed_nic(BY_HAND, "52:54:00:aa:bb:cc", network="lab", link_up=False)
    assert macvtap is not None
    assert 'dev="eth1"' in macvtap


def test_a_disc_put_in(golden: Check) -> None:
    loaded = hardware.loaded_cdrom(BY_HAND, "sda", "/pool/tools.iso")
    assert loaded is not None
    golden("edit-loaded-cdrom", loaded)
    assert hardware.loaded_cdrom(BY_HAND, "vda", "/pool/tools.iso") is None
    there = "/var/lib/libvirt/images/frodo-seed"
    assert hardware.loaded_cdrom(BY_HAND, "sda", there) is None


def test_boot_order(golden: Check, schema: Check) -> None:
    by_hand = BY_HAND.replace("</os>", '<boot dev="hd"/></os>').replace(' portid="x"', "")
    text = hardware.with_boot_order(by_hand, [MAC, "sda", "vda"])
    golden("edit-boot-order", text)
    schema("domain", text)
    root = etree.fromstring(text)
    assert root.find("./os/boot") is None
    once_more = hardware.with_boot_order(text, ["vda"])
    assert once_more.count("<boot ") == 1
    with pytest.raises(KeyError):
        hardware.with_boot_order(BY_HAND, ["vdz"])


# --- on a host ------------------------------------------------------------------------------------


def stored_vcpus(world: World, spec: DomainSpec) -> str:  # noqa: F811
    text = world.hypervisor.domain_xml(spec.uuid, inactive=True)
    vcpu = etree.fromstring(text).find("vcpu")
    assert vcpu is not None
    return vcpu.get("current") or vcpu.text or ""


def test_size(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.defined(vcpus_max=2)
    assert hypervisor.set_memory(spec.uuid, 128)
    assert hypervisor.set_memory(spec.uuid, 64)
    assert hypervisor.domain(spec.uuid).memory_mib == 64
    hypervisor.start(spec.uuid)
    assert hypervisor.set_vcpus(spec.uuid, 2)
    assert hypervisor.domain(spec.uuid).vcpus == 2
    assert not hypervisor.set_vcpus(spec.uuid, 3)
    assert not hypervisor.set_memory(spec.uuid, 128)
    facts = hypervisor.domain(spec.uuid)
    assert (facts.vcpus, facts.memory_mib) == (2, 64)
    hypervisor.force_off(spec.uuid)
    facts = hypervisor.domain(spec.uuid)
    assert (facts.vcpus, facts.memory_mib) == (3, 128)


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_disks(running: bool, world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.started() if running else world.defined()
    more = world.made_volume()
    disk = DiskSpec(pool=POOL, volume=more.name, target="vdb")
    hypervisor.attach_disk(spec.uuid, disk)
    hypervisor.attach_disk(spec.uuid, disk)
    there = {d.target for d in hypervisor.domain(spec.uuid).disks if d.device == "disk"}
    assert there == {"vda", "vdb"}
    if running:
        hypervisor.grow_disk(spec.uuid, "vdb", 16 * MIB)
        assert hypervisor.volume(POOL, more.name).capacity_bytes == 16 * MIB
        hypervisor.force_off(spec.uuid)
    else:
        with pytest.raises(WrongState):
            hypervisor.grow_disk(spec.uuid, "vdb", 16 * MIB)
    hypervisor.detach_disk(spec.uuid, "vdb")
    hypervisor.detach_disk(spec.uuid, "vdb")
    assert len([d for d in hypervisor.domain(spec.uuid).disks if d.device == "disk"]) == 1


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_cards(running: bool, world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.started() if running else world.defined()
    nic = NicSpec(mac="52:54:00:ee:ff:01", network="default")
    hypervisor.attach_nic(spec.uuid, nic)
    hypervisor.attach_nic(spec.uuid, nic)
    assert len(hypervisor.domain(spec.uuid).nics) == 2
    hypervisor.change_nic(spec.uuid, nic.mac, network="default", link_up=False)
    hypervisor.change_nic(spec.uuid, nic.mac, network="default", link_up=False)
    for inactive in (True, False):
        text = hypervisor.domain_xml(spec.uuid, inactive=inactive)
        found = hardware.nic_element(text, nic.mac)
        assert found is not None
        assert "down" in found
    if running:
        hypervisor.force_off(spec.uuid)
    hypervisor.detach_nic(spec.uuid, nic.mac)
    hypervisor.detach_nic(spec.uuid, nic.mac)
    assert len(hypervisor.domain(spec.uuid).nics) == 1


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_boot_order_and_disc(running: bool, world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.domain()
    disc = spec.cdroms[0]
    spec = replace(spec, cdroms=(CdromSpec(target=disc.target),))
    hypervisor.define(spec)
    if running:
        hypervisor.start(spec.uuid)
    assert disc.volume is not None
    hypervisor.load_cdrom(spec.uuid, disc.target, POOL, disc.volume)
    hypervisor.load_cdrom(spec.uuid, disc.target, POOL, disc.volume)
    drive = next(d for d in hypervisor.domain(spec.uuid).disks if d.device == "cdrom")
    assert drive.volume == disc.volume
    hypervisor.eject_cdrom(spec.uuid, disc.target)
    in_force = hypervisor.set_boot_order(spec.uuid, [spec.nics[0].mac, "vda"])
    assert in_force is not running
    if running:
        hypervisor.force_off(spec.uuid)
    text = hypervisor.domain_xml(spec.uuid, inactive=True)
    orders = {
        device.tag: boot.get("order")
        for device in etree.fromstring(text).iterfind("./devices/*")
        if (boot := device.find("boot")) is not None
    }
    assert orders == {"interface": "1", "disk": "2"}


def test_saved_memory_and_signs(world: World) -> None:  # noqa: F811
    hypervisor = world.hypervisor
    spec = world.started()
    hypervisor.send_keys(spec.uuid, [29, 56, 111])
    hypervisor.inject_nmi(spec.uuid)
    hypervisor.save(spec.uuid, lambda _done, _all: None)
    facts = hypervisor.domain(spec.uuid)
    assert (facts.state, facts.saved) == (DomainState.SHUTOFF, True)
    assert next(one for one in hypervisor.list_domains() if one.uuid == spec.uuid).saved
    with pytest.raises(WrongState):
        hypervisor.save(spec.uuid, lambda _done, _all: None)
    hypervisor.start(spec.uuid)
    facts = hypervisor.domain(spec.uuid)
    assert (facts.state, facts.saved) == (DomainState.RUNNING, False)
    hypervisor.save(spec.uuid, lambda _done, _all: None)
    hypervisor.discard_saved(spec.uuid)
    hypervisor.discard_saved(spec.uuid)
    assert not hypervisor.domain(spec.uuid).saved
