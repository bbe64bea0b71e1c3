"""What goes into the API of machines, and what comes out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from ninja import Field, Schema
from pydantic import AwareDatetime, ConfigDict

from accounts.apiauth import Paging
from jobs.api import JobBrief
from vms.provisioning import batch as batch_sizes

Whole = Annotated[int, Field(strict=True)]  # JSON's true is no number, and neither is "2"
IdOrName = Whole | str


class HardwareIn(Schema):
    """How it is built. What is left out is as its operating system wants it."""

    model_config = ConfigDict(extra="forbid")

    machine: Literal["", "q35", "pc"] = ""
    firmware: Literal["", "bios", "uefi", "secureboot"] = ""
    tpm: bool | None = None
    cpu_mode: Literal["", "host-passthrough", "host-model", "maximum", "custom"] = ""
    cpu_model: str = ""
    sockets: Whole | None = None
    cores: Whole | None = None
    threads: Whole | None = None
    video: Literal["", "virtio", "vga", "bochs", "qxl"] = ""
    rng: bool | None = None
    balloon: bool | None = None
    agent: Annotated[bool | None, Field(description="a channel for the guest agent")] = None
    watchdog: Literal["", "reset", "poweroff", "pause"] = ""
    clock: Literal["", "utc", "localtime"] = ""
    hyperv: Annotated[
        bool | None, Field(description="enlightenments for Windows, where KVM runs it")
    ] = None
    disc_bus: Annotated[
        Literal["", "scsi", "sata"], Field(description="of the drives for discs")
    ] = ""


class DiskIn(Schema):
    """How a disk is attached."""

    model_config = ConfigDict(extra="forbid")

    bus: Literal["", "virtio", "scsi", "sata", "ide"] = ""
    cache: Literal["", "none", "writeback", "writethrough", "directsync", "unsafe"] = ""
    discard: Literal["", "unmap", "ignore"] = ""
    io: Literal["", "native", "threads", "io_uring"] = ""
    format: Literal["", "qcow2", "raw"] = ""


class MoreDiskIn(DiskIn):
    """An empty disk beside the first."""

    size_gib: Whole


class CardIn(Schema):
    model_config = ConfigDict(extra="forbid")

    model: Literal["", "virtio", "e1000e", "e1000", "rtl8139"] = ""
    mac: Annotated[str, Field(description="default: a free one")] = ""


class MoreCardIn(CardIn):
    network: str


class AnswersIn(Schema):
    """For an installer: on a disc in a second drive; a preseed within its initrd."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["autoinstall", "kickstart", "preseed"]
    text: str


class CreateIn(Schema):
    """A machine to make. Image, flavor, network and team are named by id or name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    image: IdOrName | None = Field(description="null: an empty disk")
    flavor: IdOrName | None = None
    vcpus: Whole | None = None
    memory_mib: Whole | None = None
    disk_gib: Whole | None = Field(None, description="default: what the flavor or the image says")
    network: IdOrName | None = None
    copy_mode: Literal["linked", "full"] = Field("linked", alias="copy")
    user: str = Field("", description="default: the image's own")
    password: str = ""
    ssh_keys: list[str] | None = Field(None, description="default: the keys of your profile")
    user_data: str = ""
    hostname: str = ""
    team: IdOrName | None = Field(None, description="default: your personal team")
    start: bool = True
    tags: list[str] = []
    description: str = ""
    ends_at: AwareDatetime | None = Field(
        None, description="default: what the rules say; see `GET /leases/terms`"
    )
    os: str = Field("", description="libosinfo's short name, like debian12; default: the image's")
    hardware: HardwareIn = HardwareIn()
    disk: DiskIn = Field(DiskIn(), description="the first disk, beyond its size")
    disks: list[MoreDiskIn] = Field([], max_length=32)
    nic: CardIn = Field(CardIn(), description="the first network card, beyond its network")
    nics: list[MoreCardIn] = Field([], max_length=32)
    discs: list[IdOrName] = Field(
        [], max_length=8, description="discs in further drives: Windows' virtio drivers"
    )
    answers: AnswersIn | None = Field(None, description="with an installation disc")
    boot: list[Literal["disc", "disk", "network"]] = Field([], max_length=3)
    autostart: Annotated[bool, Field(description="start it with its host")] = False


class CloneIn(Schema):
    """A clone of a machine. The snapshot is named by id or name, the team by id or name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    copy_mode: Literal["linked", "full"] = Field("full", alias="copy")
    snapshot: IdOrName | None = Field(None, description="default: as it is now")
    hostname: str = ""
    team: IdOrName | None = Field(None, description="default: the machine's own")
    start: bool = True
    tags: list[str] = []
    description: str = ""


class BatchIn(CreateIn):
    """Machines to make together: ``name`` and a number each. No ``hostname``: it is the name."""

    count: Whole = Field(description=f"{batch_sizes.SIZE_MIN} to {batch_sizes.SIZE_MAX}")
    hostname: Literal[""] = ""


class DeleteIn(Schema):
    force: bool = False
    confirm: str = ""
    purge: bool = False
    keep_disk: bool = Field(default=False, description="keep all of its disks as a backup")
    keep: list[str] = Field([], description="these of its disks, by target")


class RestoreIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("", description="where its own was taken meanwhile")


class DiscIn(Schema):
    model_config = ConfigDict(extra="forbid")

    image: IdOrName


class KeysIn(Schema):
    model_config = ConfigDict(extra="forbid")

    keys: list[str]


class EditIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    tags: list[str] | None = None
    ends_at: AwareDatetime | None = Field(
        None, description="within the rules; null: without end, where they allow that"
    )


class TaskOut(Schema):
    job: UUID
    kind: str
    step: str
    step_label: str
    progress: float | None
    waiting: str
    observing: bool


class FaultOut(Schema):
    code: str
    detail: str
    ref: str


class VMOut(Schema):
    uuid: UUID
    name: str
    state: str
    desired: str
    task: TaskOut | None
    fault: FaultOut | None
    owner: str
    team: str
    host: str | None
    image: str | None
    disc: str | None = Field(description="the installation disc in its drive")
    flavor: str | None
    vcpus: int
    memory_mib: int
    disk_gib: int
    copy_mode: str = Field(serialization_alias="copy")
    network: str
    mac: str
    addresses: list[str]
    connect: str
    hostname: str
    user: str
    first_boot: str
    first_boot_excerpt: str
    tags: list[str]
    description: str
    cpu_percent: float | None
    memory_used_mib: int | None
    created_at: datetime
    started_at: datetime | None
    observed_at: datetime | None
    binned_at: datetime | None  # in the recycle bin since then
    bin_until: datetime | None
    ends_at: datetime | None = Field(description="stopped then; null: without end")
    last_active_at: datetime | None = Field(description="by its CPU and network")
    idle_told_at: datetime | None = Field(description="its people were told that nobody uses it")
    latest_end_at: datetime | None = Field(
        description="to where it can be extended without a request; null: for ever"
    )
    extends_to: datetime | None = Field(description="by `extend` without `until`; null: not at all")
    batch: UUID | None
    # verb -> null when it is possible now, else why not
    verbs: dict[str, str | None]


class Accepted(Schema):
    job: JobBrief
    vm: VMOut | None = Field(
        description="null when the job has failed already and left no machine; `job.error` says why"
    )


class BatchRowOut(Schema):
    number: int
    name: str
    uuid: UUID
    state: str = Field(description="making, ready, failed or deleted")
    progress: float | None
    doing: str
    why: str


class BatchOut(Schema):
    uuid: UUID
    prefix: str
    owner: str
    team: str
    created_at: datetime
    progress: float
    counts: dict[str, int]
    machines: list[BatchRowOut]


class BatchBrief(Schema):
    uuid: UUID
    prefix: str
    size: int
    created_at: datetime


class RefusedOut(Schema):
    name: str
    code: str
    detail: str


class BatchRetried(Schema):
    jobs: list[JobBrief]
    refused: list[RefusedOut]


class ListIn(Paging):
    q: str = ""
    state: str = ""
    host: str = ""
    owner: str = ""
    image: str = ""
    tag: str = ""
    team: str = ""
    sort: str = "name"


class EventOut(Schema):
    at: datetime
    kind: str
    text: str
    actor: str
    job: UUID | None


class CommandOut(Schema):
    key: str = Field(description="a verb, or what else is done to it")
    label: str
    commands: list[str]


class XmlOut(Schema):
    stored: str
    live: str | None = Field(description="for admins; empty while it is off")
    differences: str | None = Field(description="for admins: stored against live")
    observed_at: datetime | None = Field(description="null: it has not been read yet")
    error: str | None
