"""What people are told, and what happens to a team, posted to an address of theirs, signed.

The body is JSON in the language of who set it; a digest is one post of many items.
``KVMWeb-Signature: v1=...`` is the HMAC-SHA256, with the webhook's secret, of
``<KVMWeb-Id>.<KVMWeb-Timestamp>.<body>``; who receives it refuses old timestamps and ids seen
before. A post that fails is repeated a bounded number of times, with growing pauses.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping
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

from accounts import audit, notifications, outbound, policy
from accounts.errors import Conflict, DomainError, Invalid, NotFound
from accounts.models import Notification, Team, User, Webhook, WebhookDelivery
from accounts.notifications import TeamNews

log = logging.getLogger(__name__)

FAMILY = "webhook"
PREFIX = "whsec_"
MAX_HOOKS = 5  # of one person, of one team
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
    """The person's own."""
    return Webhook.objects.filter(user=user, team=None)


def of_team(team: Team) -> QuerySet[Webhook, Webhook]:
    return Webhook.objects.filter(team=team).select_related("user")


def add(
    actor: User, *, url: str, topics: Iterable[str], digest: bool = False, team: Team | None = None
) -> tuple[Webhook, str]:
    """A new one of the person's, or of a team that they manage, and its secret, which is shown
    only now. ``digest``: once a day, together. Raises Invalid, Conflict (too many), and for a team
    NotFound or Forbidden."""
    chosen = _checked_topics(topics, team)
    source = _source(url)
    with transaction.atomic():
        if team is None:
            User.objects.select_for_update().get(pk=actor.pk)
        else:
            Team.objects.select_for_update().get(pk=team.pk)
        if _theirs(actor, team).count() >= MAX_HOOKS:
            raise Conflict("webhook.too_many", maximum=MAX_HOOKS)
        row = Webhook.objects.create(
            user=actor,
            team=team,
            url=str(source.url),
            nonce=secrets.token_hex(16),
            topics=chosen,
            digest=digest,
        )
        _record(actor, "webhook.add", row, source, after={"host": source.host})
    return row, secret_of(row)


def remove(actor: User, webhook_id: int, *, team: Team | None = None) -> None:
    with transaction.atomic():
        row = find(actor, webhook_id, team=team)
        _record(actor, "webhook.remove", row, _source(row.url))
        row.delete()


def find(actor: User, webhook_id: int, *, team: Team | None = None) -> Webhook:
    """One of the person's, or of this team. Raises NotFound, and for a team Forbidden."""
    row = _theirs(actor, team).filter(pk=webhook_id).first() if webhook_id < 1 << 62 else None
    if row is None:
        raise NotFound
    return row


def try_out(actor: User, webhook_id: int, *, team: Team | None = None) -> WebhookDelivery:
    """Post something to it, to see that it arrives."""
    row = find(actor, webhook_id, team=team)
    with transaction.atomic():
        if not _has_room(row):
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
    _queue(of(notice.user), notice.code, notice.params, notice.url)


def on_team_notice(news: TeamNews) -> None:
    """The same for the team's."""
    _queue(of_team(news.team), news.code, news.params, news.url)


def send_due() -> int:
    """Post what is due; how many posts arrived. People take turns, so that nobody's many or slow
    webhooks hold up another's; one that fails waits with all it has."""
    began, arrived = time.monotonic(), 0
    failed: set[int] = set()
    due = WebhookDelivery.objects.filter(due_at__lte=timezone.now()).annotate(
        turn=Window(RowNumber(), partition_by=F("webhook__user"), order_by="id")
    )
    taking_turns = due.order_by("turn", "id")
    for row in taking_turns.select_related("webhook__user", "webhook__team")[:_AT_ONCE]:
        if time.monotonic() - began > ROUND_S:
            break
        claimed = _claim(row) if row.webhook_id not in failed else []
        if not claimed:
            continue
        if _deliver(row.webhook, claimed):
            arrived += 1
        else:
            failed.add(row.webhook_id)
            _hold_the_rest(row)
    return arrived


def forget_old() -> None:
    WebhookDelivery.objects.filter(created_at__lt=timezone.now() - KEPT).delete()


# --- inside ---------------------------------------------------------------------------------------
def _theirs(actor: User, team: Team | None) -> QuerySet[Webhook, Webhook]:
    if team is None:
        return of(actor)
    policy.require(actor, policy.Action.TEAM_MANAGE, team)
    return of_team(team)


def _checked_topics(topics: Iterable[str], team: Team | None) -> list[str]:
    known = notifications.topics() if team is None else notifications.team_topics()
    chosen = list(dict.fromkeys(topics))
    if not chosen or any(topic not in known for topic in chosen):
        raise Invalid("webhook.topics", fields={"topics": "webhook.topics"})
    return chosen


def _record(
    actor: User,
    verb: str,
    row: Webhook,
    source: outbound.Source,
    after: dict[str, Any] | None = None,
) -> None:
    audit.record(actor, verb, row, after=after, team_id=row.team_id, target_name=source.host)


def _has_room(row: Webhook) -> bool:
    return row.deliveries.filter(due_at__isnull=False).count() < MAX_WAITING


def _queue(
    rows: QuerySet[Webhook, Webhook], code: str, params: Mapping[str, Any], url: str
) -> None:
    topic = code.partition(".")[0]
    for row in rows:
        if topic in row.topics and _has_room(row):
            due_at = notifications.next_digest() if row.digest else timezone.now()
            row.deliveries.create(code=code, params=dict(params), url=url, due_at=due_at)


def _source(url: str) -> outbound.Source:
    return outbound.check_url(url, allowed_hosts=settings.WEBHOOK_ALLOWED_HOSTS, family=FAMILY)


def _claim(row: WebhookDelivery) -> list[WebhookDelivery]:
    """What is posted together: this one, or with a digest all that is due. Claimed so that two
    workers do not post the same; what a worker that dies has claimed is tried again later."""
    now = timezone.now()
    together = WebhookDelivery.objects.filter(pk=row.pk)
    if row.webhook.digest and row.code:
        together = row.webhook.deliveries.exclude(code="")
    with transaction.atomic():
        due = together.select_for_update().filter(due_at__lte=now).order_by("id")
        claimed = list(due[:MAX_WAITING])
        for one in claimed:
            one.due_at = now + _pause(one)
            one.tries += 1
        WebhookDelivery.objects.bulk_update(claimed, ["due_at", "tries"])
    return claimed


def _pause(row: WebhookDelivery) -> timedelta:
    return _FIRST_PAUSE * int(4**row.tries)


def _hold_the_rest(row: WebhookDelivery) -> None:
    """What else is due of its webhook waits too: an address that does not answer is not tried with
    each of them."""
    again_at = timezone.now() + min(_pause(row), _LONGEST_HOLD)
    WebhookDelivery.objects.filter(webhook=row.webhook_id, due_at__lt=again_at).update(
        due_at=again_at
    )


def _deliver(hook: Webhook, claimed: list[WebhookDelivery]) -> bool:
    status, code = None, ""
    if hook.team_id is None and not hook.user.is_active:
        code = "webhook.deactivated"
    else:
        try:
            status = _post(hook, claimed)
        except DomainError as error:
            code = error.code
    if status is not None and not 200 <= status < 300:
        code = "webhook.refused"
    for row in claimed:
        row.status, row.error_code = status, code
        if not code:
            row.due_at, row.delivered_at = None, timezone.now()
        elif row.tries >= MAX_TRIES or code == "webhook.deactivated":
            row.due_at = None
    fields = ["status", "error_code", "due_at", "delivered_at"]
    WebhookDelivery.objects.bulk_update(claimed, fields)
    return not code


def _post(hook: Webhook, claimed: list[WebhookDelivery]) -> int:
    """The status of the answer; redirects are not followed, and its body is not read."""
    source = _source(hook.url)
    body = _body(hook, claimed)
    post_id = str(claimed[0].pk)
    timestamp = str(int(time.time()))
    headers: dict[bytes | str, bytes | str] = {
        "Host": source.url.netloc.decode("ascii"),
        "User-Agent": "KVMWeb",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "KVMWeb-Id": post_id,
        "KVMWeb-Timestamp": timestamp,
        "KVMWeb-Signature": signature(secret_of(hook), post_id, timestamp, body),
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


def _body(hook: Webhook, claimed: list[WebhookDelivery]) -> bytes:
    with translation.override(notifications.language_of(hook.user)):
        items = [_item(hook, row) for row in claimed]
        content = items[0]
        if hook.digest and items[0]["type"] != "test":
            content = {
                "id": items[0]["id"],
                "type": "digest",
                "at": timezone.now().isoformat(),
                "text": "\n".join(item["text"] for item in items),
                "items": items,
            }
        if hook.team is not None:
            content["team"] = hook.team.name
        return json.dumps(content, ensure_ascii=False).encode()


def _item(hook: Webhook, row: WebhookDelivery) -> dict[str, Any]:
    of_team = hook.team_id is not None
    words = notifications.words(row.code, row.params, of_team=of_team) if row.code else ""
    return {
        "id": row.pk,
        "type": row.code or "test",
        "at": row.created_at.isoformat(),
        "text": words or gettext("A test by KVMWeb."),
        "url": notifications.site_link(row.url),
        "params": row.params,
    }


@cache
def _tls() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()
