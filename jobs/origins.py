"""Is a WebSocket opened by a page of this site? A browser lets any page open one, cookies and all.

The rule is Django's own for forms (``CsrfViewMiddleware._origin_verified``): the Origin is the
host that was asked, or one of ``CSRF_TRUSTED_ORIGINS``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_same_site(scope: dict[str, Any]) -> bool:
    """True if the ASGI scope's Origin is ours. Without an Origin: False, every browser sends it."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    values = {name.lower(): value.decode("latin-1") for name, value in headers}
    return is_ours(values.get(b"origin", ""), values.get(b"host", ""))


def is_ours(origin: str, host: str) -> bool:
    """The same of the two headers' values. The Host must be one of ``ALLOWED_HOSTS``: a name that
    somebody points at us (DNS rebinding) has an Origin that equals it."""
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:  # "http://["
        return False
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        return False
    domain, _port = split_domain_port(host)
    if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
        return False
    default = _DEFAULT_PORTS[parts.scheme]
    return _with_port(parts.netloc, default) == _with_port(host, default)


def _with_port(netloc: str, default: str) -> tuple[str, str]:
    domain, port = split_domain_port(netloc)
    return domain, port or default
