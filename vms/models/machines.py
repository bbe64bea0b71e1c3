"""Machines, and what belongs to each."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import sharing
from vms.models.images import Flavor, Image

if TYPE_CHECKING:
    from accounts.models import User


class MachineRules(models.Model):
    """What admins set for all machines. One row at most; without it the defaults hold."""

    bin_days = models.PositiveSmallIntegerField(default=7)  # how long the recycle bin keeps
    # So long after its end a machine goes into the recycle bin.
    lease_bin_days = models.PositiveSmallIntegerField(default=14)
    # Without use for so long its people are told; 0: nobody looks.
    idle_days = models.PositiveSmallIntegerField(default=0)
    idle_stop_days = models.PositiveSmallIntegerField(default=2)  # and then it is stopped

    @classmethod
    def current(cls) -> MachineRules:
        return cls.objects.first() or cls()

    @classmethod
    def locked(cls) -> MachineRules:
        """The row to change, in the caller's transaction; whoever changes it too waits, and then
        reads what was written. Save with ``update_fields``."""
        if not cls.objects.exists():
            cls.objects.get_or_create(pk=1)  # two who are first make one row
        return cls.objects.select_for_update().order_by("pk")[0]


class LeaseRule(models.Model):
    """How long machines last: the site's rule (neither team nor flavor), a team's or a size's."""

    WITHOUT_END: ClassVar[int] = 0

    team = models.OneToOneField(
        "accounts.Team", null=True, on_delete=models.CASCADE, related_name="lease_rule"
    )
    flavor = models.OneToOneField(
        Flavor, null=True, on_delete=models.CASCADE, related_name="lease_rule"
    )
    # Days; 0: without end; None: as the next one says (team, size, site).
    default_days = models.PositiveSmallIntegerField(null=True)
    max_days = models.PositiveSmallIntegerField(null=True)  # from when the machine was made

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="leaserule_of_one_thing",
                condition=Q(team__isnull=True) | Q(flavor__isnull=True),
            ),
            models.UniqueConstraint(
                Coalesce("team", 0),  # nothing else: there is one such row
                condition=Q(team__isnull=True, flavor__isnull=True),
                name="leaserule_site_once",
            ),
        ]


class BatchQuerySet(models.QuerySet["Batch"]):
    def visible_to(self, user: User) -> BatchQuerySet:
        if user.is_admin:
            return self
        return self.filter(Q(owner=user) | Q(team__in=user.memberships.values("team")))


class Batch(models.Model):
    """Machines that were asked for together: one form, numbered names."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    prefix = models.CharField(max_length=63)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="batches"
    )
    team = models.ForeignKey("accounts.Team", on_delete=models.PROTECT, related_name="batches")
    size = models.PositiveSmallIntegerField()
    idempotency_key = models.CharField(max_length=128, null=True, unique=True)
    digest = models.CharField(max_length=64, blank=True)  # of what was asked under that key
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BatchQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.prefix


class VMQuerySet(models.QuerySet["VM"]):
    def alive(self) -> VMQuerySet:
        return self.filter(deleted_at__isnull=True)

    def in_use(self) -> VMQuerySet:
        """Alive, and not in the recycle bin."""
        return self.alive().filter(binned_at__isnull=True)

    def in_bin(self) -> VMQuerySet:
        return self.alive().filter(binned_at__isnull=False)

    def visible_to(self, user: User) -> VMQuerySet:
        """The only entry to machines: what a person may not see does not exist for them."""
        alive = self.alive()
        if user.is_admin:
            return alive
        return alive.filter(
            Q(owner=user)
            | Q(team__in=user.memberships.values("team"))
            | Q(uuid__in=sharing.machines_shared_with(user))
        )


class VM(models.Model):
    """A machine: what is wanted, what was last seen, and who it belongs to."""

    class Desired(models.TextChoices):
        RUNNING = "running"
        STOPPED = "stopped"
        DELETED = "deleted"

    class Observed(models.TextChoices):
        RUNNING = "running", _("Running")
        PAUSED = "paused", _("Paused")
        SHUTOFF = "shutoff", _("Stopped")
        CRASHED = "crashed", _("Crashed")
        MISSING = "missing", _("Missing")
        UNKNOWN = "unknown", _("Unknown")

    class Copy(models.TextChoices):
        LINKED = "linked", _("Linked")
        FULL = "full", _("Full copy")

    class FirstBoot(models.TextChoices):
        """How far the first boot has come, as the guest reports it."""

        NONE = "none"  # nothing to wait for (no cloud-init in the image)
        PENDING = "pending"
        DONE = "done"
        FAILED = "failed"
        SILENT = "silent"  # no report came in time

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)  # libvirt's too
    name = models.CharField(max_length=63)
    domain_name = models.CharField(max_length=80)  # as virsh lists it
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="machines"
    )
    team = models.ForeignKey("accounts.Team", on_delete=models.PROTECT, related_name="machines")
    host = models.ForeignKey(
        "hosts.Host", null=True, on_delete=models.PROTECT, related_name="machines"
    )
    # Where it is being moved to; it takes its room there already.
    moving_to = models.ForeignKey(
        "hosts.Host", null=True, on_delete=models.SET_NULL, related_name="arriving"
    )
    image = models.ForeignKey(Image, null=True, on_delete=models.PROTECT, related_name="machines")
    # The disc in its drive: what it is installed from, until that is ejected.
    iso = models.ForeignKey(Image, null=True, on_delete=models.PROTECT, related_name="inserted_in")
    # The drive that it was put into by hand; "": it is being installed from it.
    iso_target = models.CharField(max_length=8, blank=True)
    flavor = models.ForeignKey(Flavor, null=True, on_delete=models.SET_NULL)
    vcpus = models.PositiveSmallIntegerField()
    memory_mib = models.PositiveIntegerField()
    copy = models.CharField(max_length=6, choices=Copy.choices, default=Copy.LINKED)
    cloned_from = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="clones"
    )
    firmware = models.CharField(max_length=10, default="bios")
    # How it is built beyond what has a column: ``vms.knobs.Knobs``, where it differs.
    hardware = models.JSONField(default=dict)
    os_id = models.CharField(max_length=48, blank=True)  # libosinfo short id; "": the image's
    # What waits for the next start: {"vcpus", "memory_mib", "boot_order"}.
    pending = models.JSONField(default=dict)
    boot_order = models.JSONField(default=list)  # targets and MACs; empty: as it was made
    autostart = models.BooleanField(default=False)  # with its host
    description = models.CharField(max_length=500, blank=True)

    hostname = models.CharField(max_length=63)
    first_user = models.CharField(max_length=32, blank=True)
    ssh_keys = models.JSONField(default=list)  # public keys put in at first boot
    # crypt(3) hash, only from the request until the seed is written.
    password_hash = models.CharField(max_length=160, blank=True)
    user_data = models.TextField(blank=True)  # the cloud-config that the person appended
    # For an installer, until its disc is out (``vms.answers``); may hold hashes of passwords.
    answers_kind = models.CharField(max_length=11, blank=True)
    answers = models.TextField(blank=True)
    seed_volume = models.CharField(max_length=128, blank=True)  # only while it exists

    desired = models.CharField(max_length=7, choices=Desired.choices, default=Desired.RUNNING)
    observed = models.CharField(max_length=7, choices=Observed.choices, default=Observed.UNKNOWN)
    observed_reason = models.CharField(max_length=32, blank=True)  # libvirt's word
    observed_at = models.DateTimeField(null=True)
    saved = models.BooleanField(default=False)  # off, with its memory kept by libvirt
    missing_count = models.PositiveSmallIntegerField(default=0)
    fault_code = models.CharField(max_length=48, blank=True)
    fault_params = models.JSONField(default=dict)
    fault_ref = models.CharField(max_length=12, blank=True)
    fault_at = models.DateTimeField(null=True)

    started_at = models.DateTimeField(null=True)  # of the present run
    first_boot = models.CharField(
        max_length=7, choices=FirstBoot.choices, default=FirstBoot.PENDING
    )
    first_boot_excerpt = models.TextField(blank=True)  # hostile text from the guest, bounded
    agent_seen = models.BooleanField(default=False)
    cpu_percent = models.FloatField(null=True)
    memory_used_mib = models.PositiveIntegerField(null=True)
    sampled_at = models.DateTimeField(null=True)

    batch = models.ForeignKey(Batch, null=True, on_delete=models.SET_NULL, related_name="machines")
    batch_number = models.PositiveSmallIntegerField(null=True)

    created_at = models.DateTimeField(auto_now_add=True)
    ends_at = models.DateTimeField(null=True, db_index=True)  # None: without end
    lease_warned_days = models.PositiveSmallIntegerField(null=True)  # the last warning sent
    lease_over_at = models.DateTimeField(null=True)  # its end was carried out then
    # By CPU and network, as far as the watcher saw; console sessions count beside it.
    last_active_at = models.DateTimeField(null=True)
    idle_told_at = models.DateTimeField(null=True)  # its people were told that nobody uses it
    # In the recycle bin since then, and until then; still defined on its host, and off.
    binned_at = models.DateTimeField(null=True, db_index=True)
    bin_until = models.DateTimeField(null=True)
    bin_autostart = models.BooleanField(default=False)  # as it was, for the restore
    deleted_at = models.DateTimeField(null=True, db_index=True)

    objects = VMQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        indexes = [
            models.Index(fields=["team", "name"]),
            models.Index(fields=["owner", "name"]),
            models.Index(fields=["observed"]),
            models.Index(fields=["-created_at"]),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["team", "name"],
                condition=Q(deleted_at__isnull=True, binned_at__isnull=True),
                name="vm_name_once_per_team",
            ),
            models.UniqueConstraint(
                fields=["domain_name"],
                condition=Q(deleted_at__isnull=True),
                name="vm_domain_name_once",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Disk(models.Model):
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="disks")
    pool = models.ForeignKey("hosts.Pool", null=True, on_delete=models.PROTECT)
    volume = models.CharField(max_length=128, unique=True)  # kvmweb-<vm uuid>-vda.qcow2
    target = models.CharField(max_length=8, default="vda")
    size_gib = models.PositiveIntegerField()
    format = models.CharField(max_length=8, default="qcow2")
    bus = models.CharField(max_length=6, default="virtio")
    cache = models.CharField(max_length=12, blank=True)  # "": as QEMU chooses
    discard = models.CharField(max_length=6, default="unmap")
    io = models.CharField(max_length=8, blank=True)
    backing_image = models.ForeignKey(Image, null=True, on_delete=models.PROTECT)
    allocation_bytes = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["id"]  # the first is the one with the system, whatever its bus is
        constraints = [models.UniqueConstraint(fields=["vm", "target"], name="disk_target_once")]


class ExtraDisc(models.Model):
    """A disc in a drive of its own, beside the one that a machine is installed from: drivers."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="extra_discs")
    image = models.ForeignKey(Image, on_delete=models.PROTECT, related_name="extra_discs")
    target = models.CharField(max_length=8)

    class Meta:
        ordering = ["target"]
        constraints = [
            models.UniqueConstraint(fields=["vm", "target"], name="extradisc_target_once")
        ]


class Snapshot(models.Model):
    """A state that a machine can go back to, kept inside its disks' own files."""

    class State(models.TextChoices):
        CREATING = "creating"
        READY = "ready"
        MISSING = "missing"  # its host knows no such snapshot: removed by hand

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="snapshots")
    name = models.CharField(max_length=63)  # libvirt's too
    description = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.CREATING)
    memory = models.BooleanField(default=False)  # with what the guest had in memory
    parent = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)
    current = models.BooleanField(default=False)  # the machine goes on from this one
    # What comes back with it: {"vcpus", "memory_mib", "nics": [{"mac", "network", "model"}]}
    hardware = models.JSONField(default=dict)
    size_bytes = models.BigIntegerField(null=True)  # what taking it added to the disks' files
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["vm", "name"], name="snapshot_name_once")]

    def __str__(self) -> str:
        return self.name


class Backup(models.Model):
    """A whole copy of a machine's disks, all as of one moment: each is an ``Image`` with its one
    file on the machine's host. The first is here, those beyond it are ``BackupDisk``."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="backups")
    image = models.OneToOneField(Image, on_delete=models.CASCADE, related_name="backup")
    target = models.CharField(max_length=8, default="vda")  # the disk that ``image`` is of
    # False: only disks beside the one with the system were kept of a machine that was deleted.
    has_system = models.BooleanField(default=True)
    number = models.PositiveIntegerField()
    scheduled = models.BooleanField(default=False)  # by its plan, which also deletes it
    was_running = models.BooleanField(default=False)
    frozen = models.BooleanField(default=False)  # its guest had written its file systems out
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["vm", "number"], name="backup_number_once_per_vm")
        ]

    @property
    def files(self) -> list[tuple[str, Image]]:
        """(target, image) of each disk, in the order of the machine's disks."""
        return [(self.target, self.image), *((row.target, row.image) for row in self.more.all())]

    @property
    def size_gib(self) -> int:
        """Of its disks together: what it counts in the quota."""
        return sum(image.min_disk_gib for _target, image in self.files)

    @property
    def file_size_bytes(self) -> int:
        return sum(image.file_size_bytes for _target, image in self.files)


class BackupDisk(models.Model):
    """A disk of a backup beyond its first."""

    backup = models.ForeignKey(Backup, on_delete=models.CASCADE, related_name="more")
    image = models.OneToOneField(Image, on_delete=models.CASCADE, related_name="backup_disk")
    target = models.CharField(max_length=8)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["backup", "target"], name="backup_disk_once")
        ]


class BackupPlan(models.Model):
    vm = models.OneToOneField(VM, on_delete=models.CASCADE, related_name="backup_plan")
    every_days = models.PositiveSmallIntegerField()  # 1 or 7
    # Of those that it made: the last ones, and the newest of so many days and weeks.
    keep = models.PositiveSmallIntegerField()
    keep_daily = models.PositiveSmallIntegerField(default=0)
    keep_weekly = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(db_index=True)
    refused_since = models.DateTimeField(null=True)  # its round cannot be begun
    told = models.BooleanField(default=False)  # of that, to whom the machine belongs


class Nic(models.Model):
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="nics")
    mac = models.CharField(max_length=17, unique=True)
    network = models.CharField(max_length=64)  # by name: it stays true across hosts
    model = models.CharField(max_length=16, default="virtio")
    link_up = models.BooleanField(default=True)  # False: its cable is out
    addresses = models.JSONField(default=list)  # ["192.168.122.14"], newest knowledge
    addresses_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]


class Tag(models.Model):
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=32)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["vm", "name"], name="tag_once_per_vm")]


class DefinitionCopy(models.Model):
    """A machine's XML as its host had it, secrets masked (``vms.definition``)."""

    vm = models.OneToOneField(VM, on_delete=models.CASCADE, related_name="definition_copy")
    stored = models.TextField(blank=True)
    live = models.TextField(blank=True)  # "" while it is off
    observed_at = models.DateTimeField(null=True)
    tried_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=48, blank=True)


class GuestReport(models.Model):
    """What a machine's guest agent said last (``hosts.virt.spec.GuestFacts``, as JSON): claims of
    whoever is root in there."""

    vm = models.OneToOneField(VM, on_delete=models.CASCADE, related_name="guest_report")
    facts = models.JSONField(default=dict)
    observed_at = models.DateTimeField(null=True)  # of the facts
    tried_at = models.DateTimeField(null=True)  # later than that when it has not answered since
    error_code = models.CharField(max_length=48, blank=True)
    error_ref = models.CharField(max_length=12, blank=True)


class GuestPassword(models.Model):
    """A password to be set inside a machine: its crypt(3) hash, until the job has ended."""

    job = models.OneToOneField("jobs.Job", on_delete=models.CASCADE, related_name="+")
    user = models.CharField(max_length=32)
    password_hash = models.CharField(max_length=160)


class VMEvent(models.Model):
    """One line of a machine's timeline."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=32)  # "state.running", "job.vm.create.succeeded"...
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    job = models.ForeignKey("jobs.Job", null=True, on_delete=models.SET_NULL)
    params = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["vm", "-id"])]
