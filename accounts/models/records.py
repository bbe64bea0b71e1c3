"""The audit record, and answers that are given again."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q

from accounts.models.people import User


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def update(self, **kwargs: Any) -> int:  # noqa: ARG002
        raise TypeError("the audit record is append-only")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("the audit record is append-only")


class AuditEntry(models.Model):
    """Who did what to which object, from where, with before and after. Append-only."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.DO_NOTHING, db_constraint=False)
    actor_name = models.CharField(max_length=150)  # stays when the person is gone
    verb = models.CharField(max_length=48)  # "vm.create", "image.publish", "user.sign_in"
    target_type = models.CharField(max_length=32, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_name = models.CharField(max_length=128, blank=True)
    team_id_at = models.BigIntegerField(null=True)
    address = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=36, blank=True)
    job_id = models.CharField(max_length=36, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    # Its place in the chain, given right after the commit: see accounts.chain.
    seq = models.BigIntegerField(null=True, unique=True)
    hash = models.CharField(max_length=64, blank=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["target_type", "target_id"]),
            models.Index(fields=["id"], condition=Q(seq__isnull=True), name="audit_unsealed"),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("the audit record is append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:  # noqa: ARG002
        raise TypeError("the audit record is append-only")


class AuditAnchor(models.Model):
    """What the chain hangs on when its beginning was dropped: the last place and hash before."""

    ONLY: ClassVar[int] = 1

    seq = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)
    seal = models.CharField(max_length=64, blank=True)


class IdempotentAnswer(models.Model):
    """What a request with an Idempotency-Key answered; a repetition gets the same answer.

    Written in the transaction of the request's effect, so that both exist or neither.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    key = models.CharField(max_length=128)
    request_hash = models.CharField(max_length=64)  # HMAC of method, path and body
    status = models.PositiveSmallIntegerField(null=True)
    content_type = models.CharField(max_length=64, blank=True)
    body = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="idempotency_key_once_per_user")
        ]
