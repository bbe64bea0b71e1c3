"""Who asks the API, with which scopes, how often; pages of lists; repeated requests.

A bearer token or a signed-in browser session (then with Django's CSRF token). Either way
``request.user`` is the person, and ``request.auth`` an ``Identity``.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from ninja import Field, Schema
from ninja.decorators import decorate_view
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf
from redis.exceptions import RedisError

from accounts import policy, tokens
from accounts.errors import Conflict, Forbidden, Invalid, TooMany
from accounts.models import ApiToken, IdempotentAnswer, User

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WINDOW_S = 60
_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_CACHED = "_kvmweb_identity"
PAGE_SIZE = 50
PAGE_SIZE_MAX = 200


@dataclass(frozen=True, kw_only=True)
class Identity:
    user: User
    token: ApiToken | None = None  # None: a browser session
    session_key: str = ""


class BearerAuth(HttpBearer):
    """``Authorization: Bearer kvmw_...``. The method asks for a scope: ``read`` to look,
    ``write`` to change; ``admin=True`` asks for ``admin`` and for an admin."""

    def __init__(self, *, admin: bool = False) -> None:
        super().__init__()
        self.admin = admin

    def authenticate(self, request: HttpRequest, token: str) -> Identity | None:
        identity = _bearer_identity(request, token)
        if identity is None or identity.token is None:
            return None
        _require_scope(identity.token, _scope_for(request, admin=self.admin))
        return _enter(request, identity, admin=self.admin)


class SessionAuth(APIKeyCookie):
    """The browser's session, for our own pages; changes need the CSRF token."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self, *, admin: bool = False) -> None:
        super().__init__(csrf=False)  # checked below, where the answer can be problem details
        self.admin = admin

    def authenticate(self, request: HttpRequest, key: str | None) -> Identity | None:  # noqa: ARG002
        identity = _session_identity(request)
        if identity is None:
            return None
        if check_csrf(request) is not None:
            raise Forbidden("csrf_failed")
        return _enter(request, identity, admin=self.admin)


user_auth = [BearerAuth(), SessionAuth()]
admin_auth = [BearerAuth(admin=True), SessionAuth(admin=True)]


def let_in(request: HttpRequest) -> Identity:
    """Who asks, in an operation: the router's auth has let them in."""
    identity = getattr(request, "auth", None)
    if not isinstance(identity, Identity):
        raise TypeError("the operation has no auth")
    return identity


def identify(request: HttpRequest) -> Identity | None:
    """Who asks, by token or session, without a look at scopes; once per request."""
    header = request.headers.get("Authorization", "")
    scheme, _, secret = header.partition(" ")
    if scheme.lower() == "bearer":
        return _bearer_identity(request, secret)
    return _session_identity(request)


def _bearer_identity(request: HttpRequest, secret: str) -> Identity | None:
    known: Identity | None = getattr(request, _CACHED, None)
    if known is not None:
        return known
    token = tokens.authenticate(secret.strip())
    if token is None:
        return None
    _limit_rate(token)
    # An everyday token of an admin sees what is theirs, not the whole site.
    token.user.acts_as_member = "admin" not in token.scopes
    identity = Identity(user=token.user, token=token)
    setattr(request, _CACHED, identity)
    return identity


def _session_identity(request: HttpRequest) -> Identity | None:
    if request.headers.get("Authorization"):
        return None  # a bad token is refused, never replaced by a cookie
    user = request.user
    if not isinstance(user, User) or not user.is_active:
        return None
    return Identity(user=user, session_key=request.session.session_key or "")


def _enter(request: HttpRequest, identity: Identity, *, admin: bool) -> Identity:
    request.user = identity.user
    if admin:
        policy.require(identity.user, policy.Action.SITE_ADMIN)
    return identity


def _scope_for(request: HttpRequest, *, admin: bool) -> str:
    if admin:
        return "admin"
    return "read" if request.method in _SAFE_METHODS else "write"


def _require_scope(token: ApiToken, scope: str) -> None:
    if scope not in token.scopes:
        raise Forbidden("api.scope_missing", scope=scope)


def _limit_rate(token: ApiToken) -> None:
    """A fixed window of a minute for each token. Without Redis there is no limit: the API then
    still answers what it can from the database."""
    limit = settings.API_RATE_PER_MINUTE
    if not limit:
        return
    now = int(time.time())
    key = f"api-rate:{token.pk}:{now // _WINDOW_S}"
    try:
        cache.add(key, 0, timeout=2 * _WINDOW_S)
        count = cache.incr(key)
    except (RedisError, ValueError):  # ValueError: evicted between the two calls
        return
    if count > limit:
        raise TooMany("too_many", retry_after=_WINDOW_S - now % _WINDOW_S)


# --- lists ----------------------------------------------------------------------------------
T = TypeVar("T")


class Page(Schema, Generic[T]):
    items: list[T]
    count: int


class Paging(Schema):
    page: int = Field(1, ge=1, le=1_000_000, description="from 1")
    page_size: int = Field(PAGE_SIZE, ge=1, le=PAGE_SIZE_MAX)


def paginate(rows: QuerySet[Any, Any], paging: Paging) -> dict[str, Any]:
    """One page as ``{"items": [...], "count": n}``; two queries. Past the end: no items."""
    start = (paging.page - 1) * paging.page_size
    return {"items": list(rows[start : start + paging.page_size]), "count": rows.count()}


# --- repeated requests ----------------------------------------------------------------------
Run = Callable[..., HttpResponse]


def _idempotent(run: Run) -> Run:
    """See ``idempotent``."""

    @functools.wraps(run)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        key = request.headers.get("Idempotency-Key")
        identity = identify(request) if key is not None else None
        if key is None or identity is None:
            return run(request, *args, **kwargs)  # without a person it ends in 401
        if not _KEY.fullmatch(key):
            raise Invalid("api.idempotency_key_invalid")
        request_hash = _request_hash(request)
        with transaction.atomic():
            try:
                with transaction.atomic():
                    # PostgreSQL waits here while another transaction holds the same key.
                    row = IdempotentAnswer.objects.create(
                        user=identity.user, key=key, request_hash=request_hash
                    )
            except IntegrityError:
                return _replay(identity.user, key, request_hash)
            response = run(request, *args, **kwargs)
            if response.status_code >= 400:
                # A refused request had no effect: the same key may try again.
                transaction.set_rollback(True)
                return response
            row.status = response.status_code
            row.content_type = response.headers.get("Content-Type", "")
            row.body = response.content.decode()
            row.save(update_fields=["status", "content_type", "body"])
            return response

    return wrapper


# Put above the router's decorator of a POST that creates:
#
#     @router.post("/vms", response={202: Accepted})
#     @idempotent
#     def create(request, ...): ...
#
# The effect and its stored answer are one transaction, so a repetition with the same key and
# body gets the first answer, also when both arrive at once; another body gets 422.
idempotent = decorate_view(_idempotent)


def _replay(user: User, key: str, request_hash: str) -> HttpResponse:
    row = IdempotentAnswer.objects.filter(user=user, key=key).first()
    if row is None or row.status is None:
        # The other one was rolled back between our insert and this look.
        raise Conflict("api.idempotency_key_retry")
    if row.request_hash != request_hash:
        raise Invalid("api.idempotency_key_reused")
    response = HttpResponse(row.body, status=row.status, content_type=row.content_type)
    response["Idempotent-Replayed"] = "true"
    return response


def _request_hash(request: HttpRequest) -> str:
    """Keyed, since a body may hold a password that a plain hash would let somebody guess."""
    request_line = f"{request.method} {request.get_full_path()}\n".encode()
    value = request_line + request.body
    return salted_hmac("kvmweb.accounts.idempotency", value, algorithm="sha256").hexdigest()
