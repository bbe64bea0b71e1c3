"""What a machine should be: frozen dataclasses, in libvirt's vocabulary. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID


class DomainState(str, Enum):
    """libvirt's ``virDomainState``, folded to what a person can act on."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """A disk that is a volume of a pool (``<disk type='volume'>`` or its path, see xml)."""

    pool: str
    volume: str
    target: str = "vda"
    bus: str = "virtio"
    format: str = "qcow2"
    cache: str | None = None
    discard: str | None = "unmap"
    io: str | None = None  # native | threads | io_uring
    boot_order: int | None = None
    serial: str | None = None


@dataclass(frozen=True, kw_only=True)
class CdromSpec:
    """A virtio-scsi CD-ROM (Debian's cloud kernel has no AHCI); ``sata`` for installers that know
    no virtio (Windows). ``volume`` None: tray empty."""

    target: str = "sda"
    bus: str = "scsi"
    pool: str | None = None
    volume: str | None = None
    boot_order: int | None = None


@dataclass(frozen=True, kw_only=True)
class NicSpec:
    mac: str
    network: str | None = "default"
    bridge: str | None = None
    model: str = "virtio"
    boot_order: int | None = None
    link_up: bool = True  # False: its cable is out


@dataclass(frozen=True, kw_only=True)
class SerialLogSpec:
    """What the guest writes to its serial line is kept in a file beside its disks, so that it can
    be read as a volume. In a pool that is no directory libvirt's own log folder is used."""

    pool: str
    name: str


@dataclass(frozen=True, kw_only=True)
class NvramSpec:
    """Where UEFI keeps its variables (boot entries, keys): a file beside the machine's disks, which
    libvirt fills at the first start. In a pool that is no directory it is libvirt's own choice."""

    pool: str
    name: str


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """What is booted in the place of a disk: volumes of one pool, with a line for the kernel. The
    guest's own restart then ends the domain, for the next start to be another one."""

    pool: str
    kernel: str
    initrd: str
    cmdline: str = ""


@dataclass(frozen=True, kw_only=True)
class DomainMetadata:
    """Ownership, kept in ``<metadata>`` so that a lost database can be rebuilt."""

    vm_uuid: UUID
    name: str
    owner: str
    team: str
    site: str  # the id of the site that manages it
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class DomainSpec:
    uuid: UUID
    name: str
    vcpus: int
    memory_mib: int
    disks: tuple[DiskSpec, ...]
    vcpus_max: int | None = None  # as many can be plugged into it while it runs
    nics: tuple[NicSpec, ...] = ()
    cdroms: tuple[CdromSpec, ...] = ()
    domain_type: str = "qemu"  # qemu | kvm
    arch: str = "x86_64"
    machine: str = "q35"  # q35 | pc
    cpu_mode: str | None = None  # None: host-passthrough under kvm, "maximum" under emulation
    cpu_model: str = ""  # QEMU's name of it, with the mode "custom"
    # (sockets, cores, threads); their product is the number of processors
    topology: tuple[int, int, int] | None = None
    firmware: str = "bios"  # bios | uefi | secureboot
    nvram: NvramSpec | None = None  # of UEFI
    kernel: KernelSpec | None = None
    tpm: bool = False
    os_id: str = ""  # http://libosinfo.org/xmlns/libvirt/domain/1.0
    title: str = ""
    description: str = ""
    autostart: bool = False
    agent_channel: bool = True  # org.qemu.guest_agent.0
    # A virtio port on which the guest says how its first boot went (vms.seeds writes the guest
    # side into the seed's vendor-data; the watcher reads it): org.kvmweb.firstboot.0
    firstboot_channel: bool = True
    serial_log: SerialLogSpec | None = None
    video: str = "virtio"
    vnc: bool = True  # <listen type='socket'/>, sharePolicy force-shared
    rng: bool = True
    balloon: bool = True
    watchdog: str = ""  # what happens when the guest stops feeding it: reset | poweroff | pause
    clock: str = "utc"  # localtime: what Windows takes a hardware clock for
    hyperv: bool = False  # tell Windows that it is a guest; only KVM can
    metadata: DomainMetadata | None = None


@dataclass(frozen=True, kw_only=True)
class VolumeSpec:
    """A volume to create. ``backing_volume`` makes an overlay of a volume in the same pool."""

    pool: str
    name: str
    capacity_bytes: int
    format: str = "qcow2"  # qcow2 | raw
    backing_volume: str | None = None
    backing_format: str | None = None
    allocation_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SnapshotSpec:
    """An internal snapshot: it lives inside the qcow2 files of ``disks`` (targets). ``memory``:
    with what a running guest has in memory; without, the disks as if the plug was pulled."""

    name: str
    description: str = ""
    memory: bool = False
    disks: tuple[str, ...] = ("vda",)


@dataclass(frozen=True, kw_only=True)
class DiskCopy:
    """A disk of a running domain, to be copied into a volume that exists. ``shallow``: only what
    the disk itself holds; the volume stands on the same backing volume."""

    target: str
    pool: str
    volume: str
    shallow: bool = False


# --- facts: what was read ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DiskFacts:
    target: str
    bus: str
    device: str  # disk | cdrom
    source: str | None  # path, or pool/volume
    format: str | None
    pool: str | None = None
    volume: str | None = None


@dataclass(frozen=True, kw_only=True)
class NicFacts:
    mac: str
    network: str | None
    bridge: str | None
    model: str | None
    target: str | None


@dataclass(frozen=True, kw_only=True)
class DomainFacts:
    """One domain as libvirt told it."""

    uuid: UUID
    name: str
    state: DomainState
    reason: str  # libvirt's word: "booted", "shutdown", "destroyed", "crashed", "user"...
    persistent: bool
    vcpus: int
    memory_mib: int
    cpu_time_ns: int | None = None
    sent_bytes: int | None = None  # by the guest on all its cards, since it started
    memory_used_mib: int | None = None
    autostart: bool = False
    metadata: DomainMetadata | None = None
    disks: tuple[DiskFacts, ...] = ()
    nics: tuple[NicFacts, ...] = ()
    vnc_socket: str | None = None
    id: int | None = None
    saved: bool = False  # off, with its memory kept: a start goes on from there


@dataclass(frozen=True, kw_only=True)
class BuiltDisk:
    target: str
    bus: str
    cache: str  # "": not said, as with the others
    io: str
    discard: str


@dataclass(frozen=True, kw_only=True)
class BuiltFacts:
    """How a domain is built, in the words of ``DomainSpec``; "" and 0 where nothing is said."""

    machine: str
    firmware: str
    cpu_mode: str
    cpu_model: str
    sockets: int
    cores: int
    threads: int
    tpm: bool
    video: str
    rng: bool
    balloon: bool
    agent: bool
    watchdog: str
    clock: str
    hyperv: bool
    disc_bus: str
    drive: bool  # for discs, with none in it
    disks: tuple[BuiltDisk, ...]
    boot: tuple[str, ...]  # targets of disks and MACs of cards


@dataclass(frozen=True, kw_only=True)
class DisplayPort:
    """Where on its host, and by what password, the screen of one boot of a domain is opened."""

    address: str  # loopback
    port: int
    password: str = field(repr=False)
    boot: int  # libvirt's id of the running domain: another one is another boot


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A DHCP lease of one of the host's networks."""

    network: str
    mac: str
    address: str
    hostname: str | None = None
    expires_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class PoolFacts:
    name: str
    uuid: UUID
    kind: str
    path: str
    active: bool
    autostart: bool
    capacity_bytes: int
    allocation_bytes: int
    available_bytes: int


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    pool: str
    name: str
    path: str
    format: str
    capacity_bytes: int
    allocation_bytes: int
    backing_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    name: str
    uuid: UUID
    kind: str  # nat | route | open | bridge | isolated
    bridge: str
    cidr: str
    active: bool
    autostart: bool
    pxe: bool = False  # its DHCP names a file to boot


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    hostname: str
    host_uuid: UUID | None
    arch: str
    cpu_model: str
    cpus: int
    memory_mib: int
    libvirt_version: str
    qemu_version: str
    domain_types: tuple[str, ...]  # for its own arch: ("qemu", "kvm")
    cpu_virt_flag: bool  # vmx or svm among the host CPU's features
    firmwares: tuple[str, ...] = ()  # bios, efi, secure
    machines: tuple[str, ...] = ()
    tpm: bool = False  # an emulated TPM 2.0 (swtpm)
    videos: tuple[str, ...] = ()
    cpu_models: tuple[str, ...] = ()  # that its QEMU can run, by KVM where that is listed
    cpu_models_emulated: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HostSample:
    cpu_percent: float | None
    memory_total_mib: int
    memory_free_mib: int


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding, as ``virt-host-validate`` would name it."""

    key: str  # "kvm_device", "cpu_virtualization", "acceleration_probe", "cgroup_memory"...
    result: str  # pass | warn | fail | note
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    name: str
    parent: str  # "" for a root
    state: DomainState  # of the guest when it was taken
    memory: bool
    internal: bool  # False: somebody made it outside of the disks' files
    current: bool  # the one that the machine goes on from
    description: str = ""
    created_at: float = 0.0  # seconds since the epoch


# --- what a guest says of itself, by its agent: claims, bounded and cleaned ----------------------


@dataclass(frozen=True, kw_only=True)
class GuestFilesystem:
    mountpoint: str
    device: str
    kind: str  # "ext4"
    total_bytes: int | None
    used_bytes: int | None  # at most total_bytes


@dataclass(frozen=True, kw_only=True)
class GuestUser:
    """Somebody who is signed in there."""

    name: str
    domain: str = ""  # Windows'
    since: int | None = None  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class GuestCard:
    name: str  # "enp1s0"
    mac: str
    addresses: tuple[str, ...]  # without loopback and link-local


@dataclass(frozen=True, kw_only=True)
class GuestFacts:
    """Whoever is root in the guest chooses each of these: to be shown, never to decide by."""

    hostname: str = ""
    os: str = ""  # "Debian GNU/Linux 12 (bookworm)"
    os_id: str = ""
    kernel: str = ""
    timezone: str = ""
    filesystems: tuple[GuestFilesystem, ...] = ()
    users: tuple[GuestUser, ...] = ()
    cards: tuple[GuestCard, ...] = ()


# --- events: what the watcher gets --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DomainEvent:
    """Something happened to a domain; the receiver reads it again rather than trust details."""

    kind: str  # lifecycle | reboot | agent | tray | device | metadata | balloon | memory_failure
    uuid: UUID
    name: str
    detail: str = ""  # for lifecycle: defined, undefined, started, suspended, resumed, stopped...


@dataclass(frozen=True, kw_only=True)
class NetworkEvent:
    network: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ConnectionClosed:
    reason: str


@dataclass(frozen=True, kw_only=True)
class ChannelData:
    """Bytes that a guest wrote to a watched virtio channel. Hostile; bounded by the reader."""

    uuid: UUID
    channel: str
    data: bytes


HostEvent = DomainEvent | NetworkEvent | ConnectionClosed | ChannelData
