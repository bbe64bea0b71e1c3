"""Who did what, from where. One function writes; nothing changes what is written.

The request's id and address come from a context variable that
``kvmweb.middleware.RequestIdMiddleware`` sets; a worker has none and records empty ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.http import HttpRequest

from accounts import chain
from accounts.models import AuditEntry, User

# Values under these keys never reach the record, whatever a caller passes.
_SECRET_WORDS = ("password", "secret", "token_hash", "user_data", "private")
_REDACTED = "(not recorded)"
UNIX_SOCKET = "unix"  # in TRUSTED_PROXIES: a proxy that connects over our unix socket


@dataclass(kw_only=True)
class Context:
    request_id: str = ""
    address: str = ""
    # Refusals wait here until the request's transaction is over: they must outlive its rollback.
    refusals: list[AuditEntry] = field(default_factory=list)


context: ContextVar[Context | None] = ContextVar("accounts.audit.context", default=None)


@contextmanager
def request_context(*, request_id: str, address: str) -> Iterator[Context]:
    """Set the context of one request; writes the refusals that it gathered at its end."""
    current = Context(request_id=request_id, address=address)
    token = context.set(current)
    try:
        yield current
    finally:
        context.reset(token)
        for entry in current.refusals:
            _save(entry)


def record(
    actor: User | AnonymousUser | None,
    verb: str,
    target: models.Model | None = None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    job: models.Model | None = None,
    team_id: int | None = None,
    target_name: str = "",
) -> AuditEntry:
    """Write one entry, in the caller's transaction. ``verb`` is ``object.action``."""
    entry = _entry(
        actor=actor,
        verb=verb,
        target=target,
        before=before,
        after=after,
        job=job,
        team_id=team_id,
        target_name=target_name,
    )
    _save(entry)
    return entry


def record_refusal(
    actor: User | AnonymousUser | None, action: str, target: models.Model | None
) -> None:
    """Note that the one door said no. In a request it is written when the request is over."""
    entry = _entry(actor=actor, verb="access.refused", target=target, after={"action": action})
    current = context.get()
    if current is None:
        _save(entry)
    else:
        current.refusals.append(entry)


def _save(entry: AuditEntry) -> None:
    # The order counts: outside of a transaction the hook runs at once.
    entry.save()
    chain.seal_on_commit()


def _entry(
    *,
    actor: User | AnonymousUser | None,
    verb: str,
    target: models.Model | None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    job: models.Model | None = None,
    team_id: int | None = None,
    target_name: str = "",
) -> AuditEntry:
    current = context.get() or Context()
    person = actor if isinstance(actor, User) else None
    if team_id is None and target is not None:
        team_id = getattr(target, "team_id", None)
    return AuditEntry(
        actor=person,
        actor_name=person.username if person else "",
        verb=verb,
        target_type=target._meta.model_name or "" if target is not None else "",
        target_id=_identity(target),
        target_name=(target_name or _name(target))[:128],
        team_id_at=team_id,
        address=current.address,
        request_id=current.request_id,
        job_id=str(job.pk) if job is not None else "",
        before=_clean(before),
        after=_clean(after),
    )


def _identity(target: models.Model | None) -> str:
    if target is None:
        return ""
    return str(getattr(target, "uuid", None) or target.pk)


def _name(target: models.Model | None) -> str:
    for attribute in ("name", "username", "target_name"):
        if value := getattr(target, attribute, ""):
            return str(value)
    return ""


def _clean(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """JSON-ready, without secrets."""
    return {key: _clean_value(key, value) for key, value in (values or {}).items()}


def _clean_value(key: str, value: Any) -> Any:
    if any(word in key.lower() for word in _SECRET_WORDS):
        return _REDACTED
    if isinstance(value, Mapping):
        return _clean(value)
    if isinstance(value, (list, tuple, set)):
        return [_clean_value(key, item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def client_address(request: HttpRequest) -> str:
    """The address a request came from, looking behind trusted proxies only."""
    return resolve_address(
        request.META.get("REMOTE_ADDR", "") or "", request.META.get("HTTP_X_FORWARDED_FOR", "")
    )


def resolve_address(peer: str, forwarded_for: str) -> str:
    """``X-Forwarded-For`` from its right end as far as trusted proxies reach; ``""`` if unknown.

    Each proxy appends the address that it saw, so the first one that is not a proxy of ours is
    the client; everything left of it is the client's own claim.
    """
    if not is_trusted_proxy(peer):
        return _valid(peer)
    address = peer
    for claim in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
        if not _valid(claim):
            break
        address = claim
        if not is_trusted_proxy(claim):
            break
    return _valid(address)


def _valid(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""


def is_trusted_proxy(peer: str) -> bool:
    """Is ``peer`` (an address; anything else is a unix socket) a proxy that we believe?"""
    if not _valid(peer):
        return UNIX_SOCKET in settings.TRUSTED_PROXIES
    address = ipaddress.ip_address(peer)
    return any(
        address in ipaddress.ip_network(proxy, strict=False)
        for proxy in settings.TRUSTED_PROXIES
        if proxy != UNIX_SOCKET
    )
