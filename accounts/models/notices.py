"""What the site tells people, and how."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models.people import User


class Notification(models.Model):
    """Something that a person is told: by the bell, and by mail as they chose."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="notifications")
    code = models.CharField(max_length=64)  # "team.joined": the message "notice.team.joined"
    params = models.JSONField(default=dict)
    url = models.CharField(max_length=300, blank=True)  # where it leads, a path of this site
    created_at = models.DateTimeField(auto_now_add=True)
    read_at = models.DateTimeField(null=True, blank=True)
    mail_due_at = models.DateTimeField(null=True, blank=True)  # None: no mail, or it was sent
    mail_tries = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["user"], condition=Q(read_at__isnull=True), name="notification_unread"
            ),
            models.Index(
                fields=["mail_due_at"],
                condition=Q(mail_due_at__isnull=False),
                name="notification_mail_due",
            ),
        ]


class NotificationChoice(models.Model):
    """How a person wants a topic by mail; without a row its default holds."""

    class Mail(models.TextChoices):
        NOW = "now", _("At once")
        DAILY = "daily", _("Once a day, together")
        NEVER = "never", _("Not by mail")

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="notification_choices")
    topic = models.CharField(max_length=32)
    mail = models.CharField(max_length=5, choices=Mail.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "topic"], name="notificationchoice_once"),
        ]
