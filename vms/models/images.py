"""What machines are made from."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

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
        POOL = "pool", _("Storage pool")
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
    # Of a copy of a machine: how the machine is built (``vms.knobs``), "firmware", "disk_bus" and
    # "card_model" among it; machines of it are built alike.
    hardware = models.JSONField(default=dict)
    # Of a copy of a machine: SHA-256 of its UEFI variables as they were then; "": none were kept.
    nvram_checksum = models.CharField(max_length=64, blank=True)
    nvram_size_bytes = models.PositiveIntegerField(default=0)
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

    @property
    def nvram_name(self) -> str:
        """Of the volume beside it with the machine's UEFI variables (``vms.nvram``)."""
        return f"kvmweb-image-{self.uuid}-nvram.fd"


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
