"""Hypervisor hosts, and what was last seen of them. Pages read these rows, never libvirt."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import models
from django.utils.translation import gettext_lazy as _


class Host(models.Model):
    class Transport(models.TextChoices):
        LOCAL = "local", _("This machine (qemu:///system)")
        UNIX = "unix", _("libvirt socket on this machine")
        SSH = "ssh", _("SSH")
        TLS = "tls", _("TLS")

    class Reach(models.TextChoices):
        UNKNOWN = "unknown", _("Not seen yet")
        UP = "up", _("Reachable")
        DOWN = "down", _("Unreachable")

    class Mode(models.TextChoices):
        ACTIVE = "active", _("Takes machines")
        MAINTENANCE = "maintenance", _("Takes no new machines")

    class Screens(models.TextChoices):
        SOCKET = "socket", _("Unix socket")
        PORT = "port", _("Loopback port with a password")

    name = models.SlugField(max_length=63, unique=True)
    # The URI is built from these fields (hosts.virt.uri); nobody types one.
    transport = models.CharField(max_length=5, choices=Transport.choices)
    socket_path = models.CharField(max_length=107, blank=True)
    address = models.CharField(max_length=253, blank=True)
    port = models.PositiveIntegerField(null=True, blank=True)
    username = models.CharField(max_length=32, blank=True)
    ssh_host_key = models.TextField(blank=True)  # pinned, as in known_hosts
    # Where screens of machines that start there listen: found out for a host behind SSH.
    screens = models.CharField(max_length=6, choices=Screens.choices, default=Screens.SOCKET)

    mode = models.CharField(max_length=11, choices=Mode.choices, default=Mode.ACTIVE)
    reach = models.CharField(max_length=7, choices=Reach.choices, default=Reach.UNKNOWN)
    reach_since = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=48, blank=True)
    error_ref = models.CharField(max_length=12, blank=True)

    hostname = models.CharField(max_length=253, blank=True)
    host_uuid = models.UUIDField(null=True)
    arch = models.CharField(max_length=16, blank=True)
    cpu_model = models.CharField(max_length=64, blank=True)
    libvirt_version = models.CharField(max_length=16, blank=True)
    qemu_version = models.CharField(max_length=16, blank=True)
    cpus = models.PositiveIntegerField(default=0)
    memory_mib = models.PositiveIntegerField(default=0)
    facts = models.JSONField(default=dict)
    # Findings of the checks, in virt-host-validate's order:
    # [{"key", "result": pass|warn|fail|note, "params": {}}]
    checks = models.JSONField(default=list)
    checked_at = models.DateTimeField(null=True)
    # "kvm" only where a probe guest has reached its marker; an admin may override.
    acceleration = models.CharField(max_length=4, blank=True)  # kvm | tcg | "" (not probed)
    acceleration_note = models.CharField(max_length=48, blank=True)  # why, as a code
    acceleration_override = models.CharField(max_length=4, blank=True)

    vcpu_ratio = models.FloatField(default=16.0)  # vCPUs promised per physical CPU
    memory_reserve_mib = models.PositiveIntegerField(default=1024)
    cpu_percent = models.FloatField(null=True)
    memory_used_mib = models.PositiveIntegerField(null=True)
    sampled_at = models.DateTimeField(null=True)
    copy_slots = models.PositiveSmallIntegerField(default=2)
    # Disks are thin: GiB promised, but not written yet, per GiB free in the pool.
    disk_ratio = models.FloatField(default=3.0)
    # Where backups go; none: beside the machine's disks.
    backup_pool = models.ForeignKey(
        "Pool", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def lacks(self, needs: Iterable[str]) -> str:
        """The first of these that it was not seen to have, or "". Words: ``uefi``, ``secureboot``,
        ``tpm``, ``kvm``, ``machine:pc``, ``cpu:EPYC``."""
        return next((need for need in needs if not self._has(need)), "")

    def _has(self, need: str) -> bool:
        word, _colon, value = need.partition(":")
        firmwares = self.facts.get("firmwares", ())
        match word:
            case "uefi":
                return "efi" in firmwares
            case "secureboot":
                return "secure" in firmwares
            case "tpm":
                return bool(self.facts.get("tpm"))
            case "kvm":
                return self.domain_type == "kvm"
            case "machine":
                return value in self.facts.get("machines", ())
            case "cpu":
                return value in self.cpu_models
        return False

    @property
    def cpu_models(self) -> list[str]:
        """That new machines can have here: emulation runs others than KVM."""
        usual: list[str] = self.facts.get("cpu_models", [])
        if self.domain_type == "kvm":
            return usual
        emulated: list[str] = self.facts.get("cpu_models_emulated", usual)
        return emulated

    @property
    def domain_type(self) -> str:
        """libvirt's ``<domain type=...>`` for new machines: ``kvm`` or ``qemu``."""
        chosen = self.acceleration_override or self.acceleration
        return "kvm" if chosen == "kvm" else "qemu"


class Pool(models.Model):
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="pools")
    name = models.CharField(max_length=64)
    uuid = models.UUIDField()
    kind = models.CharField(max_length=16)  # libvirt's pool type: dir, fs, netfs, logical...
    path = models.CharField(max_length=255, blank=True)
    active = models.BooleanField(default=False)
    autostart = models.BooleanField(default=False)
    is_default = models.BooleanField(default=False)  # where new disks go
    capacity_bytes = models.BigIntegerField(default=0)
    allocation_bytes = models.BigIntegerField(default=0)
    available_bytes = models.BigIntegerField(default=0)
    seen_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["host_id", "name"]
        constraints = [models.UniqueConstraint(fields=["host", "name"], name="pool_once_per_host")]

    def __str__(self) -> str:
        return self.name


class Network(models.Model):
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="networks")
    name = models.CharField(max_length=64)
    uuid = models.UUIDField()
    kind = models.CharField(max_length=10)  # nat | route | open | bridge | isolated
    bridge = models.CharField(max_length=15, blank=True)
    cidr = models.CharField(max_length=43, blank=True)  # of its DHCP, "192.168.122.0/24"
    active = models.BooleanField(default=False)
    autostart = models.BooleanField(default=False)
    public = models.BooleanField(default=True)  # people may choose it
    pxe = models.BooleanField(default=False)  # its own DHCP names a file to boot
    # A server beyond libvirt's own answers there, by an admin's word: on a bridge only they know.
    pxe_by_admin = models.BooleanField(default=False)
    seen_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["host_id", "name"]
        constraints = [
            models.UniqueConstraint(fields=["host", "name"], name="network_once_per_host")
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def that_boot(cls) -> set[str]:
        """Names of the networks from which a machine can boot (PXE)."""
        able = models.Q(pxe=True) | models.Q(pxe_by_admin=True)
        return set(cls.objects.filter(able, active=True).values_list("name", flat=True))


class Untracked(models.Model):
    """A domain or volume that a host has and no row of ours owns. Listed, and never deleted
    because it was seen: ``vms.reconcile`` removes only what a failed job of ours has left."""

    class Kind(models.TextChoices):
        DOMAIN = "domain", _("Domain")
        VOLUME = "volume", _("Volume")

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="untracked")
    kind = models.CharField(max_length=6, choices=Kind.choices)
    name = models.CharField(max_length=255)
    pool = models.CharField(max_length=64, blank=True)  # of a volume
    uuid = models.UUIDField(null=True)  # the domain's, or the machine's that the name tells
    # Ours by its metadata (domain) or its name (volume). Other domains are only counted as load;
    # other volumes are what an admin can import (``vms.images.poolvolumes``).
    tagged = models.BooleanField(default=False)
    # What its metadata says of its owner, and what it takes: {"owner", "team", "site", "vcpus"...}
    facts = models.JSONField(default=dict)
    state = models.CharField(max_length=16, blank=True)
    first_seen_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["kind", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "kind", "pool", "name"], name="untracked_once_per_host"
            )
        ]
