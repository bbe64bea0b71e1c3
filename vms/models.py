"""Machines and what they are made from."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import sharing

if TYPE_CHECKING:
    from accounts.models import User


class Flavor(models.Model):
    """A size that admins publish."""

    name = models.CharField(max_length=32, unique=True)
    vcpus = models.PositiveSmallIntegerField()
    memory_mib = models.PositiveIntegerField()
    disk_gib = models.PositiveIntegerField()
    description = models.CharField(max_length=128, blank=True)
    published = models.BooleanField(default=True)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "vcpus", "memory_mib"]

    def __str__(self) -> str:
        return self.name


class Template(models.Model):
    """A machine to make others from, in versions: each is an ``Image`` on the host where it was
    made. ``current`` is the one that new machines get."""

    name = models.CharField(max_length=48)
    team = models.ForeignKey("accounts.Team", on_delete=models.PROTECT, related_name="templates")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="templates"
    )
    description = models.CharField(max_length=200, blank=True)
    public = models.BooleanField(default=False)  # for everybody, not only for its team
    current = models.ForeignKey("Image", null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["team", "name"], name="template_name_once_per_team")
        ]

    def __str__(self) -> str:
        return self.name


class ImageQuerySet(models.QuerySet["Image"]):
    def visible_to(self, user: User) -> ImageQuerySet:
        if user.is_admin:
            return self
        teams = user.memberships.values("team")
        return self.filter(Q(published=True) | Q(team__in=teams), state=Image.State.READY)

    def of_the_catalogue(self) -> ImageQuerySet:
        """Without templates' versions and backups, which have pages of their own."""
        return self.exclude(source__in=[Image.Source.TEMPLATE, Image.Source.BACKUP])

    def to_choose(self) -> ImageQuerySet:
        """What new machines are made from: a backup is restored on its machine's page."""
        return self.exclude(source=Image.Source.BACKUP)


class Image(models.Model):
    """A disk that machines start from. The site keeps one copy; hosts get theirs when needed."""

    class State(models.TextChoices):
        NEW = "new", _("Waiting")  # upload not begun, or download queued
        FETCHING = "fetching", _("Being fetched")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")
        RETIRED = "retired", _("Retired")  # no new machines; old ones keep their disk

    class Source(models.TextChoices):
        URL = "url", _("Download")
        UPLOAD = "upload", _("Upload")
        BUILT = "built", _("Built here")
        TEMPLATE = "template", _("Template")
        BACKUP = "backup", _("Backup")

    class Kind(models.TextChoices):
        DISK = "disk", _("Disk")
        ISO = "iso", _("Installation disc")

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=4, choices=Kind.choices, default=Kind.DISK)
    os_id = models.CharField(max_length=32, default="linux")  # libosinfo short id: debian12
    version = models.CharField(max_length=32, blank=True)
    arch = models.CharField(max_length=16, default="x86_64")
    description = models.CharField(max_length=200, blank=True)
    icon = models.CharField(max_length=32, blank=True)
    source = models.CharField(max_length=8, choices=Source.choices)
    # Of a template's version; one that has a team is for its members, published or not.
    template = models.ForeignKey(
        Template, null=True, on_delete=models.PROTECT, related_name="versions"
    )
    template_version = models.PositiveIntegerField(null=True)
    team = models.ForeignKey("accounts.Team", null=True, on_delete=models.PROTECT)
    url = models.URLField(max_length=500, blank=True)
    checksum_algorithm = models.CharField(max_length=6, blank=True)  # sha256 | sha512
    checksum = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.NEW)
    published = models.BooleanField(default=False)
    format = models.CharField(max_length=8, blank=True)  # qcow2 | raw, after inspection
    virtual_size_bytes = models.BigIntegerField(default=0)
    file_size_bytes = models.BigIntegerField(default=0)
    upload_total_bytes = models.BigIntegerField(default=0)
    upload_received_bytes = models.BigIntegerField(default=0)
    min_memory_mib = models.PositiveIntegerField(default=0)
    min_disk_gib = models.PositiveIntegerField(default=0)
    recommended_memory_mib = models.PositiveIntegerField(default=0)
    recommended_disk_gib = models.PositiveIntegerField(default=0)
    default_user = models.CharField(max_length=32, blank=True)
    has_cloud_init = models.BooleanField(default=True)  # reads a NoCloud seed
    error_code = models.CharField(max_length=48, blank=True)
    error_params = models.JSONField(default=dict)
    error_ref = models.CharField(max_length=12, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ImageQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def volume_name(self) -> str:
        """The name of its copy in a host's pool."""
        return f"kvmweb-image-{self.uuid}.{self.format or 'qcow2'}"


class ImageCopy(models.Model):
    """An image in a pool: copied once, by whoever needs it first; others wait on the same job."""

    class State(models.TextChoices):
        COPYING = "copying"
        READY = "ready"
        FAILED = "failed"

    image = models.ForeignKey(Image, on_delete=models.PROTECT, related_name="copies")
    pool = models.ForeignKey("hosts.Pool", on_delete=models.CASCADE, related_name="image_copies")
    state = models.CharField(max_length=7, choices=State.choices, default=State.COPYING)
    job = models.ForeignKey("jobs.Job", null=True, on_delete=models.SET_NULL)
    copied_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["image", "pool"], name="imagecopy_once")]


class MachineRules(models.Model):
    """What admins set for all machines. One row at most; without it the defaults hold."""

    bin_days = models.PositiveSmallIntegerField(default=7)  # how long the recycle bin keeps

    @classmethod
    def current(cls) -> MachineRules:
        return cls.objects.first() or cls()


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
    image = models.ForeignKey(Image, null=True, on_delete=models.PROTECT, related_name="machines")
    # The disc in its drive: what it is installed from, until that is ejected.
    iso = models.ForeignKey(Image, null=True, on_delete=models.PROTECT, related_name="inserted_in")
    flavor = models.ForeignKey(Flavor, null=True, on_delete=models.SET_NULL)
    vcpus = models.PositiveSmallIntegerField()
    memory_mib = models.PositiveIntegerField()
    copy = models.CharField(max_length=6, choices=Copy.choices, default=Copy.LINKED)
    cloned_from = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="clones"
    )
    firmware = models.CharField(max_length=8, default="bios")
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
    backing_image = models.ForeignKey(Image, null=True, on_delete=models.PROTECT)
    allocation_bytes = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["target"]
        constraints = [models.UniqueConstraint(fields=["vm", "target"], name="disk_target_once")]


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
    """A whole copy of a machine's disk: an ``Image`` with its one file on the machine's host."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="backups")
    image = models.OneToOneField(Image, on_delete=models.CASCADE, related_name="backup")
    number = models.PositiveIntegerField()
    scheduled = models.BooleanField(default=False)  # by its plan, which also deletes it
    was_running = models.BooleanField(default=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["vm", "number"], name="backup_number_once_per_vm")
        ]


class BackupPlan(models.Model):
    vm = models.OneToOneField(VM, on_delete=models.CASCADE, related_name="backup_plan")
    every_days = models.PositiveSmallIntegerField()  # 1 or 7
    keep = models.PositiveSmallIntegerField()
    next_at = models.DateTimeField(db_index=True)


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


class ConsoleTicket(models.Model):
    """Leave to open one console once. Only the SHA-256 of the ticket is stored."""

    token_hash = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    session_key = models.CharField(max_length=40, blank=True)  # empty: an API token asked
    api_token = models.ForeignKey("accounts.ApiToken", null=True, on_delete=models.CASCADE)
    vm = models.ForeignKey(VM, on_delete=models.CASCADE)
    kind = models.CharField(max_length=6)  # vnc | serial
    mode = models.CharField(max_length=7)  # view | control
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    redeemed_at = models.DateTimeField(null=True)


class ConsoleSessionQuerySet(models.QuerySet["ConsoleSession"]):
    def live(self) -> ConsoleSessionQuerySet:
        """Open, and seen lately: one whose process died does not count for ever."""
        return self.filter(ended_at__isnull=True, seen_at__gt=timezone.now() - ConsoleSession.STALE)


class ConsoleSession(models.Model):
    """One connection to a console: who, how, from when to when, how much, why it ended."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="console_sessions")
    kind = models.CharField(max_length=6)
    mode = models.CharField(max_length=7)
    carrier = models.CharField(max_length=10)
    address = models.CharField(max_length=45, blank=True)
    # The invite without which this person could not be here.
    invite = models.ForeignKey("vms.ConsoleInvite", null=True, on_delete=models.SET_NULL)
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(default=timezone.now)  # a session whose carrier died goes stale
    ended_at = models.DateTimeField(null=True)
    bytes_in = models.BigIntegerField(default=0)
    bytes_out = models.BigIntegerField(default=0)
    end_reason = models.CharField(max_length=32, blank=True)

    STATES_OPEN: ClassVar[Q] = Q(ended_at__isnull=True)
    SEEN_EVERY_S: ClassVar[int] = 20
    STALE: ClassVar[timedelta] = timedelta(seconds=3 * SEEN_EVERY_S)

    objects = ConsoleSessionQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["vm"], condition=Q(ended_at__isnull=True), name="consolesession_open"
            ),
            models.Index(fields=["vm", "user", "-id"], name="consolesession_of_person"),
        ]


class ConsoleControl(models.Model):
    """Who has the keyboard of a machine, for all its consoles. It lapses when that person has gone
    (``vms.consoles.control``). No person: it was put down, and nobody gets it without asking."""

    vm = models.OneToOneField(VM, on_delete=models.CASCADE, related_name="console_control")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE)
    taken_at = models.DateTimeField(default=timezone.now)


class ConsoleAsk(models.Model):
    """Somebody who views asks for control."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="console_asks")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    asked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["asked_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["vm", "user"], name="consoleask_once_per_person")
        ]


class ConsoleInvite(models.Model):
    """A link that opens one machine's console to people of this site. Only its hash is stored."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="console_invites")
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    mode = models.CharField(max_length=7)  # view | control
    token_hash = models.CharField(max_length=64, unique=True)
    once = models.BooleanField(default=False)  # for the first person who joins, and no other
    made_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]


class ConsoleInviteUse(models.Model):
    invite = models.ForeignKey(ConsoleInvite, on_delete=models.CASCADE, related_name="uses")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="console_invite_uses"
    )
    used_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["invite", "user"], name="consoleinviteuse_once_per_person"
            )
        ]


class ConsoleRecording(models.Model):
    """What a console showed, in a file under ``settings.RECORDINGS_DIR``."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="console_recordings")
    kind = models.CharField(max_length=6)  # vnc | serial
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL
    )  # None: the site's rule
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(default=timezone.now)  # one whose process died goes stale
    stop_asked_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=32, blank=True)
    size_bytes = models.BigIntegerField(default=0)
    duration_ms = models.BigIntegerField(default=0)
    path = models.CharField(max_length=128)  # relative to RECORDINGS_DIR

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["vm", "kind"],
                condition=Q(ended_at__isnull=True),
                name="consolerecording_one_at_a_time",
            )
        ]
