"""What the site tells people, and how."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models.people import Team, User


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


class Webhook(models.Model):
    """Where a person's news are posted to, or a team's. Its secret is made from ``nonce``, and
    never stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="webhooks")  # who set it
    team = models.ForeignKey(  # None: what the person is told
        Team, null=True, on_delete=models.CASCADE, related_name="webhooks"
    )
    url = models.CharField(max_length=500)
    nonce = models.CharField(max_length=32)
    topics = models.JSONField(default=list)
    digest = models.BooleanField(default=False)  # once a day, together
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]


class WebhookDelivery(models.Model):
    """One piece of news for a webhook: due, delivered, or given up."""

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    code = models.CharField(max_length=64, blank=True)  # as a notification's; "": a test
    params = models.JSONField(default=dict)
    url = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    due_at = models.DateTimeField(null=True)  # None: settled
    tries = models.PositiveSmallIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    status = models.PositiveSmallIntegerField(null=True)  # of the last answer
    error_code = models.CharField(max_length=48, blank=True)  # of the last try

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["due_at"], condition=Q(due_at__isnull=False), name="webhookdelivery_due"
            )
        ]
