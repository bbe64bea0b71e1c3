"""Housekeeping and mail, by beat."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from accounts import audit_log, chain, directory_people, notifications, rounds, sign_ins, webhooks
from accounts.models import IdempotentAnswer

IDEMPOTENCY_KEPT = timedelta(days=1)


@shared_task(name="accounts.tidy", ignore_result=True)
def tidy() -> None:
    """Forget sessions that have ended, answers that nobody will ask for again, old news and the
    audit record past its time; seal what a process that died has left."""
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
    IdempotentAnswer.objects.filter(created_at__lt=timezone.now() - IDEMPOTENCY_KEPT).delete()
    notifications.forget_old()
    webhooks.forget_old()
    sign_ins.forget_ended()
    chain.seal()
    audit_log.retire_old()


@shared_task(name="accounts.mail", ignore_result=True)
def mail() -> None:
    """Send what people wanted by mail, every half minute by beat."""
    notifications.send_due_mail()


@shared_task(name="accounts.quota_rounds", ignore_result=True)
def quota_rounds() -> None:
    """Samples of use, warnings before grants end, requests that wait too long; every 5 minutes."""
    rounds.run()


@shared_task(name="accounts.directory_leavers", ignore_result=True)
def directory_leavers() -> None:
    """Sign out who is gone from their LDAP directory, every hour by beat."""
    directory_people.end_of_leavers()


@shared_task(name="accounts.webhooks", ignore_result=True)
def post_webhooks() -> None:
    """Post what people want by webhook, every half minute by beat."""
    webhooks.send_due()
