"""Settings of a domain: live where its guest and QEMU can, else in the stored definition alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import parse
from hosts.virt.client.snapshots import SnapshotCalls
from hosts.virt.connection import WORK_TIMEOUT_S
from hosts.virt.errors import GuestKeepsDevice
from hosts.virt.spec import DiskSpec, NicSpec
from hosts.virt.xml import hardware

LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
KIB_PER_MIB = 1024
# A guest that has the device in use answers at once or never; libvirt itself waits for 5 s.
UNPLUG_WAIT_S = 10.0
UNPLUG_TICK_S = 0.5


class HardwareCalls(SnapshotCalls):
    def set_vcpus(self, uuid: UUID, vcpus: int) -> bool:
        return self._on_domain(uuid, lambda dom: _set_vcpus(dom, vcpus))

    def set_memory(self, uuid: UUID, memory_mib: int) -> bool:
        return self._on_domain(uuid, lambda dom: _set_memory(dom, memory_mib * KIB_PER_MIB))

    def set_boot_order(self, uuid: UUID, devices: Sequence[str]) -> bool:
        def change(dom: Any) -> bool:
            stored = dom.XMLDesc(STORED)
            changed = hardware.with_boot_order(stored, devices)
            dom.connect().defineXMLFlags(changed, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            return not dom.isActive()

        return self._on_domain(uuid, change)

    def grow_disk(self, uuid: UUID, target: str, capacity_bytes: int) -> None:
        flags = libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
        self._on_domain(
            uuid, lambda dom: dom.blockResize(target, capacity_bytes, flags), WORK_TIMEOUT_S
        )

    def attach_disk(self, uuid: UUID, disk: DiskSpec) -> None:
        path = self.volume(disk.pool, disk.volume).path
        text = hardware.disk_xml(disk, path)
        self._attach(uuid, text, lambda xml: parse.disk_files(xml).get(disk.target) == path)

    def detach_disk(self, uuid: UUID, target: str) -> None:
        self._detach(uuid, lambda xml: hardware.disk_element(xml, target))

    def attach_nic(self, uuid: UUID, nic: NicSpec) -> None:
        text = hardware.nic_xml(nic)
        self._attach(uuid, text, lambda xml: hardware.nic_element(xml, nic.mac) is not None)

    def detach_nic(self, uuid: UUID, mac: str) -> None:
        self._detach(uuid, lambda xml: hardware.nic_element(xml, mac))

    def change_nic(self, uuid: UUID, mac: str, *, network: str | None, link_up: bool) -> None:
        def change(dom: Any, flags: int, xml: str) -> None:
            changed = hardware.changed_nic(xml, mac, network=network, link_up=link_up)
            if changed is not None:
                dom.updateDeviceFlags(changed, flags)

        self._on_both(uuid, change)

    def load_cdrom(self, uuid: UUID, target: str, pool: str, volume: str) -> None:
        path = self.volume(pool, volume).path

        def change(dom: Any, flags: int, xml: str) -> None:
            loaded = hardware.loaded_cdrom(xml, target, path)
            if loaded is not None:
                force = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if flags == LIVE else 0
                dom.updateDeviceFlags(loaded, flags | force)

        self._on_both(uuid, change)

    # --- private ------------------------------------------------------------------------------

    def _on_both(self, uuid: UUID, change: Callable[[Any, int, str], None]) -> None:
        """``change(domain, flags, xml)``: of what runs, then of what is stored."""

        def both(dom: Any) -> None:
            if dom.isActive():
                change(dom, LIVE, dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
            if dom.isPersistent():
                change(dom, CONFIG, dom.XMLDesc(STORED))

        self._on_domain(uuid, both, WORK_TIMEOUT_S)

    def _attach(self, uuid: UUID, text: str, is_there: Callable[[str], bool]) -> None:
        def change(dom: Any, flags: int, xml: str) -> None:
            if not is_there(xml):
                dom.attachDeviceFlags(text, flags)

        self._on_both(uuid, change)

    def _detach(self, uuid: UUID, find: Callable[[str], str | None]) -> None:
        """Live first: what the guest keeps stays in the stored definition too."""

        def change(dom: Any, flags: int, xml: str) -> None:
            element = find(xml)
            if element is None:
                return
            dom.detachDeviceFlags(element, flags)
            end = time.monotonic() + UNPLUG_WAIT_S
            while flags == LIVE and find(dom.XMLDesc(0)) is not None:
                if time.monotonic() > end:
                    raise GuestKeepsDevice("the guest does not let go of the device")
                time.sleep(UNPLUG_TICK_S)

        self._on_both(uuid, change)


def _set_vcpus(dom: Any, vcpus: int) -> bool:
    most = dom.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_MAXIMUM | CONFIG)
    if vcpus > most:
        _forget_topology(dom)
        dom.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_VCPU_MAXIMUM | CONFIG)
    dom.setVcpusFlags(vcpus, CONFIG)
    if not dom.isActive():
        return True
    now = dom.vcpusFlags(LIVE)
    if vcpus <= now or vcpus > dom.maxVcpus():
        return bool(vcpus == now)  # fewer needs the guest's help, which it may refuse
    try:
        dom.setVcpusFlags(vcpus, LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in NOT_LIVE:
            raise
        return False
    if parse.agent_connected(dom.XMLDesc(0)):
        # Linux does not use a new processor by itself; its agent makes it.
        with contextlib.suppress(libvirt.libvirtError):
            dom.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_VCPU_GUEST)
    return True


def _forget_topology(dom: Any) -> None:
    """libvirt refuses more processors than a layout of sockets and cores holds."""
    changed = hardware.without_topology(dom.XMLDesc(STORED))
    if changed is not None:
        dom.connect().defineXMLFlags(changed, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


NOT_LIVE = (
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_INTERNAL_ERROR,  # QEMU's own refusal
)


def _set_memory(dom: Any, kib: int) -> bool:
    """Less is asked of a running guest by its balloon, but a guest may keep what it has."""
    dom.setMemoryFlags(kib, libvirt.VIR_DOMAIN_MEM_MAXIMUM | CONFIG)
    dom.setMemoryFlags(kib, CONFIG)
    if not dom.isActive():
        return True
    most = dom.maxMemory()
    if kib <= most:
        with contextlib.suppress(libvirt.libvirtError):  # without a balloon
            dom.setMemoryFlags(kib, LIVE)
    return bool(kib == most)
