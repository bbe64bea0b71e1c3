"""The shapes that the product makes, each with a golden file of its name."""

from __future__ import annotations

from uuid import UUID

from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainMetadata,
    DomainSpec,
    KernelSpec,
    NicSpec,
    NvramSpec,
    SerialLogSpec,
    VolumeSpec,
)

VM = UUID("5f1b3c52-8f0e-4a3e-9d51-0c6a2f6f7a11")
GIB = 1024**3
PATHS = {
    ("default", "frodo"): "/var/lib/libvirt/images/frodo",
    ("default", "frodo-data"): "/var/lib/libvirt/images/frodo-data",
    ("default", "frodo-seed"): "/var/lib/libvirt/images/frodo-seed",
    ("default", "frodo-drivers"): "/var/lib/libvirt/images/frodo-drivers",
    ("default", "frodo-kernel"): "/var/lib/libvirt/images/frodo-kernel",
    ("default", "frodo-initrd"): "/var/lib/libvirt/images/frodo-initrd",
    ("lvm", "frodo"): "/dev/vg0/frodo",
    ("default", "frodo-log"): "/var/lib/libvirt/images/frodo-log",
    ("default", "frodo-nvram"): "/var/lib/libvirt/images/frodo-nvram",
}
OWNED = DomainMetadata(
    vm_uuid=VM, name="frodo", owner="frodo@shire", team="ring bearers", site="s1", image="debian-12"
)
SYSTEM_DISK = DiskSpec(pool="default", volume="frodo", boot_order=1)
NIC = NicSpec(mac="52:54:00:aa:bb:cc")
# Nothing beyond what every domain has: the shape of a probe or an import.
BARE = DomainSpec(
    uuid=VM,
    name="bare",
    vcpus=1,
    memory_mib=256,
    disks=(DiskSpec(pool="default", volume="frodo"),),
    machine="pc",
    cpu_mode="host-model",
    agent_channel=False,
    firstboot_channel=False,
    vnc=False,
    video="none",
    rng=False,
    balloon=False,
)

DOMAINS: dict[str, DomainSpec] = {
    "domain-emulated": DomainSpec(
        uuid=VM,
        name="frodo",
        vcpus=2,
        memory_mib=2048,
        disks=(SYSTEM_DISK,),
        nics=(NIC,),
        cdroms=(CdromSpec(pool="default", volume="frodo-seed"),),
        os_id="http://debian.org/debian/12",
        serial_log=SerialLogSpec(pool="default", name="frodo-log"),
        title="frodo (ring bearers)",
        description="Kept by KVMWeb & <its friends>",
        metadata=OWNED,
    ),
    "domain-kvm": DomainSpec(
        uuid=VM,
        name="frodo",
        vcpus=2,
        memory_mib=2048,
        disks=(SYSTEM_DISK,),
        nics=(NIC,),
        domain_type="kvm",
        autostart=True,
        metadata=OWNED,
    ),
    "domain-bare": BARE,
    "domain-uefi-installer": DomainSpec(
        uuid=VM,
        name="installer",
        vcpus=2,
        memory_mib=4096,
        disks=(DiskSpec(pool="default", volume="frodo", boot_order=2),),
        cdroms=(
            CdromSpec(pool="default", volume="frodo-seed", boot_order=1),
            CdromSpec(target="sdb"),
        ),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", model="e1000e", boot_order=3),),
        firmware="uefi",
        nvram=NvramSpec(pool="lvm", name="installer-nvram"),  # no directory
        video="vga",
    ),
    "domain-secureboot-tpm": DomainSpec(
        uuid=VM,
        name="windows",
        vcpus=4,
        memory_mib=8192,
        disks=(SYSTEM_DISK,),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", network=None, bridge="br0"),),
        firmware="secureboot",
        nvram=NvramSpec(pool="default", name="frodo-nvram"),
        tpm=True,
    ),
    "domain-several-disks": DomainSpec(
        uuid=VM,
        name="store",
        vcpus=1,
        memory_mib=512,
        disks=(
            DiskSpec(pool="lvm", volume="frodo", format="raw", cache="none", discard=None),
            DiskSpec(
                pool="default", volume="frodo-data", target="sdc", bus="scsi", serial="data-1"
            ),
        ),
        serial_log=SerialLogSpec(pool="lvm", name="store-log"),  # no directory
        nics=(NIC, NicSpec(mac="52:54:00:aa:bb:cd", network="lab", link_up=False)),
        vcpus_max=4,
    ),
    "domain-preseed": DomainSpec(
        uuid=VM,
        name="installing",
        vcpus=1,
        memory_mib=1024,
        disks=(DiskSpec(pool="default", volume="frodo", boot_order=2),),
        cdroms=(CdromSpec(target="sdb", pool="default", volume="frodo-seed", boot_order=1),),
        nics=(NIC,),
        kernel=KernelSpec(
            pool="default",
            kernel="frodo-kernel",
            initrd="frodo-initrd",
            cmdline="auto=true priority=critical",
        ),
    ),
    "domain-pxe": DomainSpec(
        uuid=VM,
        name="netboot",
        vcpus=1,
        memory_mib=512,
        disks=(DiskSpec(pool="default", volume="frodo", boot_order=2),),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", network="boots", boot_order=1),),
    ),
    # Emulated as well as by KVM: its features of Hyper-V are there with KVM alone.
    "domain-windows": DomainSpec(
        uuid=VM,
        name="windows-11",
        vcpus=4,
        memory_mib=8192,
        disks=(DiskSpec(pool="default", volume="frodo", boot_order=2),),
        cdroms=(
            CdromSpec(target="sdb", bus="sata", pool="default", volume="frodo-seed", boot_order=1),
            CdromSpec(target="sdc", bus="sata", pool="default", volume="frodo-drivers"),
        ),
        nics=(NIC,),
        firmware="secureboot",
        tpm=True,
        topology=(1, 2, 2),
        clock="localtime",
        hyperv=True,
        domain_type="kvm",
        os_id="http://microsoft.com/win/11",
    ),
    "domain-windows-emulated": DomainSpec(
        uuid=VM,
        name="windows-10",
        vcpus=2,
        memory_mib=4096,
        disks=(DiskSpec(pool="default", volume="frodo", target="sde", bus="sata", boot_order=2),),
        cdroms=(
            CdromSpec(target="sdb", bus="sata", pool="default", volume="frodo-seed", boot_order=1),
        ),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", model="e1000e"),),
        clock="localtime",
        hyperv=True,
        video="vga",
    ),
    "domain-old-pc": DomainSpec(
        uuid=VM,
        name="old",
        vcpus=1,
        memory_mib=256,
        machine="pc",
        cpu_mode="custom",
        cpu_model="qemu64",
        disks=(
            DiskSpec(pool="default", volume="frodo", target="hda", bus="ide", cache="writeback"),
        ),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", model="rtl8139", boot_order=1),),
        video="vga",
        rng=False,
        balloon=False,
        agent_channel=False,
        watchdog="reset",
    ),
    "domain-many-drives": DomainSpec(
        uuid=VM,
        name="drives",
        vcpus=4,
        memory_mib=512,
        topology=(2, 2, 1),
        cpu_mode="host-model",
        disks=(
            DiskSpec(pool="default", volume="frodo", format="raw", cache="none", io="native"),
            DiskSpec(pool="default", volume="frodo-data", target="sdh", bus="scsi", io="threads"),
        ),
        cdroms=(CdromSpec(pool="default", volume="frodo-seed"), CdromSpec(target="sdb")),
        nics=(NicSpec(mac="52:54:00:aa:bb:cc", boot_order=1),),
        watchdog="poweroff",
    ),
    "domain-arm": DomainSpec(
        uuid=VM,
        name="pine",
        vcpus=1,
        memory_mib=512,
        disks=(SYSTEM_DISK,),
        nics=(NIC,),
        arch="aarch64",
        machine="virt",
        firmware="uefi",
    ),
}

VOLUMES: dict[str, VolumeSpec] = {
    "volume-qcow2": VolumeSpec(pool="default", name="frodo", capacity_bytes=10 * GIB),
    "volume-raw-preallocated": VolumeSpec(
        pool="default",
        name="frodo-seed",
        capacity_bytes=400 * 1024,
        format="raw",
        allocation_bytes=400 * 1024,
    ),
    "volume-overlay": VolumeSpec(
        pool="default",
        name="frodo",
        capacity_bytes=10 * GIB,
        backing_volume="frodo-data",
        backing_format="qcow2",
    ),
}
