"""Who is at a machine's console, who may come, and what was recorded."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from vms.models.machines import VM

if TYPE_CHECKING:
    pass


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
