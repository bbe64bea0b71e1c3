"""What people are told, posted to an address of theirs, signed.

The body is JSON in the person's language. ``KVMWeb-Signature: v1=...`` is the HMAC-SHA256, with the
webhook's secret, of ``<KVMWeb-Id>.<KVMWeb-Timestamp>.<body>``; who receives it refuses old
timestamps and ids seen before. A post that fails is repeated a bounded number of times, with
growing pauses.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import ssl
import time
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from typing import Any

import httpcore
from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet, Window
from django.db.models.functions import RowNumber
from django.utils import timezone, translation
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext

from accounts import audit, notifications, outbound
from accounts.errors import Conflict, DomainError, Invalid, NotFound
from accounts.models import Notification, User, Webhook, WebhookDelivery

log = logging.getLogger(__name__)

FAMILY = "webhook"
PREFIX = "whsec_"
MAX_HOOKS = 5  # of one person
MAX_TRIES = 6
MAX_WAITING = 200  # of one webhook; what comes beyond is dropped
TIMEOUT_S = 5.0  # of each wait
WHOLE_S = 15.0  # of one post: a receiver that drips its answer must not hold a worker
ROUND_S = 20.0  # a round ends then: slow receivers must not hold a worker
KEPT = timedelta(days=30)
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_HOLD = timedelta(hours=1)
_AT_ONCE = 100


def of(user: User) -> QuerySet[Webhook, Webhook]:
    return Webhook.objects.filter(user=user)


def add(user: User, *, url: str, topics: Iterable[str]) -> tuple[Webhook, str]:
    """A new one and its secret, which is shown only now. Raises Invalid, Conflict (too many)."""
    chosen = _checked_topics(topics)
    source = _source(url)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if of(user).count() >= MAX_HOOKS:
            raise Conflict("webhook.too_many", maximum=MAX_HOOKS)
        row = Webhook.objects.create(
            user=user, url=str(source.url), nonce=secrets.token_hex(16), topics=chosen
        )
        audit.record(user, "webhook.add", row, after={"host": source.host}, target_name=source.host)
    return row, secret_of(row)


def remove(user: User, webhook_id: int) -> None:
    with transaction.atomic():
        row = find(user, webhook_id)
        audit.record(user, "webhook.remove", row, target_name=_source(row.url).host)
        row.delete()


def find(user: User, webhook_id: int) -> Webhook:
    row = of(user).filter(pk=webhook_id).first()
    if row is None:
        raise NotFound
    return row


def try_out(user: User, webhook_id: int) -> WebhookDelivery:
    """Post something to it, to see that it arrives."""
    row = find(user, webhook_id)
    with transaction.atomic():
        waiting = row.deliveries.filter(due_at__isnull=False)
        if waiting.count() >= MAX_WAITING:
            raise Conflict("webhook.waiting")
        return WebhookDelivery.objects.create(webhook=row, due_at=timezone.now())


def secret_of(row: Webhook) -> str:
    mac = salted_hmac("kvmweb.webhook", f"{row.pk}:{row.nonce}", algorithm="sha256")
    return PREFIX + mac.hexdigest()


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def on_notice(notice: Notification) -> None:
    """In the transaction that tells the person: a delivery for each webhook that wants it."""
    topic = notice.code.partition(".")[0]
    for row in of(notice.user):
        if topic not in row.topics:
            continue
        if row.deliveries.filter(due_at__isnull=False).count() < MAX_WAITING:
            WebhookDelivery.objects.create(webhook=row, notification=notice, due_at=timezone.now())


def send_due() -> int:
    """Post what is due; how many arrived. People take turns, so that nobody's many or slow
    webhooks hold up another's; one that fails waits with all it has."""
    began, arrived = time.monotonic(), 0
    failed: set[int] = set()
    due = WebhookDelivery.objects.filter(due_at__lte=timezone.now()).annotate(
        turn=Window(RowNumber(), partition_by=F("webhook__user"), order_by="id")
    )
    taking_turns = due.order_by("turn", "id")
    for row in taking_turns.select_related("webhook__user", "notification")[:_AT_ONCE]:
        if time.monotonic() - began > ROUND_S:
            break
        if row.webhook_id in failed or not _claim(row):
            continue
        if _deliver(row):
            arrived += 1
        else:
            failed.add(row.webhook_id)
            _hold_the_rest(row)
    return arrived


def forget_old() -> None:
    WebhookDelivery.objects.filter(created_at__lt=timezone.now() - KEPT).delete()


# --- inside ---------------------------------------------------------------------------------------
def _checked_topics(topics: Iterable[str]) -> list[str]:
    known = notifications.topics()
    chosen = list(dict.fromkeys(topics))
    if not chosen or any(topic not in known for topic in chosen):
        raise Invalid("webhook.topics", fields={"topics": "webhook.topics"})
    return chosen


def _source(url: str) -> outbound.Source:
    return outbound.check_url(url, allowed_hosts=settings.WEBHOOK_ALLOWED_HOSTS, family=FAMILY)


def _claim(row: WebhookDelivery) -> bool:
    """So that two workers do not post the same; one that dies in between tries again later."""
    return bool(
        WebhookDelivery.objects.filter(pk=row.pk, due_at=row.due_at, tries=row.tries).update(
            tries=row.tries + 1, due_at=timezone.now() + _pause(row)
        )
    )


def _pause(row: WebhookDelivery) -> timedelta:
    return _FIRST_PAUSE * int(4**row.tries)


def _hold_the_rest(row: WebhookDelivery) -> None:
    """What else is due of its webhook waits too: an address that does not answer is not tried with
    each of them."""
    again_at = timezone.now() + min(_pause(row), _LONGEST_HOLD)
    WebhookDelivery.objects.filter(webhook=row.webhook_id, due_at__lt=again_at).update(
        due_at=again_at
    )


def _deliver(row: WebhookDelivery) -> bool:
    status, code = None, ""
    if not row.webhook.user.is_active:
        code = "webhook.deactivated"
    else:
        try:
            status = _post(row)
        except DomainError as error:
            code = error.code
    if status is not None and not 200 <= status < 300:
        code = "webhook.refused"
    settled: dict[str, Any] = {"status": status, "error_code": code}
    if not code:
        settled |= {"due_at": None, "delivered_at": timezone.now()}
    elif row.tries + 1 >= MAX_TRIES or code == "webhook.deactivated":
        settled |= {"due_at": None}
    WebhookDelivery.objects.filter(pk=row.pk).update(**settled)
    return not code


def _post(row: WebhookDelivery) -> int:
    """The status of the answer; redirects are not followed, and its body is not read."""
    source = _source(row.webhook.url)
    body = _body(row)
    timestamp = str(int(time.time()))
    headers: dict[bytes | str, bytes | str] = {
        "Host": source.url.netloc.decode("ascii"),
        "User-Agent": "KVMWeb",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "KVMWeb-Id": str(row.pk),
        "KVMWeb-Timestamp": timestamp,
        "KVMWeb-Signature": signature(secret_of(row.webhook), str(row.pk), timestamp, body),
    }
    url = httpcore.URL(
        scheme=source.url.raw_scheme,
        host=source.host.encode("ascii"),
        port=source.port,
        target=source.url.raw_path,
    )
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
    backend = outbound.CheckedBackend(allowed=source.allowed, family=FAMILY, within_s=WHOLE_S)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream(
                "POST", url, headers=headers, content=body, extensions={"timeout": timeouts}
            ) as answer,
        ):
            return answer.status
    except httpcore.TimeoutException as error:
        raise DomainError("webhook.timeout") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        raise DomainError("webhook.unreachable") from error


def _body(row: WebhookDelivery) -> bytes:
    with translation.override(notifications.language_of(row.webhook.user)):
        notice = row.notification
        content = {
            "id": row.pk,
            "type": notice.code if notice else "test",
            "at": (notice or row).created_at.isoformat(),
            "text": notifications.text(notice) if notice else gettext("A test by KVMWeb."),
            "url": notifications.site_link(notice.url) if notice else "",
            "params": notice.params if notice else {},
        }
        return json.dumps(content, ensure_ascii=False).encode()


@cache
def _tls() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()
