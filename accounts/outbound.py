"""Where the site itself may connect to for a person: which URLs, and which addresses behind them.

A site's server sits where a browser does not: beside databases, metadata services and printers.
So it goes by https to public addresses, unless an admin has allowed the host (``name`` or
``name:port``): that one may be plain http and private. ``family`` begins the codes of refusals:
``image`` gives ``image.url_private``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpcore

from accounts.errors import Invalid

if TYPE_CHECKING:
    import httpx

MAX_URL = 500  # what Image.url holds
_PORTS = {"http": 80, "https": 443}
# A translator may stand behind these (RFC 6052, RFC 8215): the last 32 bits are where it leads.
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# Python 3.10 knows single addresses of these (IANA's special-purpose registries), not the whole.
_SPECIAL = (ipaddress.IPv4Network("192.0.0.0/24"),)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Source:
    """A URL that passed ``check_url``."""

    url: httpx.URL
    host: str  # ASCII, lower case, without a final dot
    port: int
    allowed: bool  # an admin named this host: http and private addresses are fine

    @property
    def target(self) -> str:
        """Path and query as they go on the wire."""
        return self.url.raw_path.decode("ascii")

    @property
    def file_name(self) -> str:
        return self.url.path.rsplit("/", 1)[-1]


def check_url(text: str, *, allowed_hosts: Iterable[str], family: str) -> Source:
    """What can be said of a URL without asking the network. Raises ``Invalid``."""
    import httpx  # 5 MiB, which not every process needs

    text = text.strip()
    if not text or len(text) > MAX_URL:
        raise _invalid(family, "url_invalid")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii").lower().rstrip(".")
    except (httpx.InvalidURL, ValueError):
        raise _invalid(family, "url_invalid") from None
    if url.scheme not in _PORTS or not host:
        raise _invalid(family, "url_scheme")
    if url.userinfo:  # it would be stored, shown and logged
        raise _invalid(family, "url_credentials")
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < 65536:
        raise _invalid(family, "url_invalid")
    allowed = _is_allowed(host, port, allowed_hosts)
    if url.scheme == "http" and not allowed:
        raise _invalid(family, "url_not_https", host=host)
    source = Source(url=url.copy_with(fragment=None), host=host, port=port, allowed=allowed)
    literal = _literal(host)
    if literal is not None and not allowed and not is_public(literal):
        raise _invalid(family, "url_private", host=host)
    return source


def _is_allowed(host: str, port: int, allowed_hosts: Iterable[str]) -> bool:
    names = {str(name).strip().lower().rstrip(".") for name in allowed_hosts}
    shown = f"[{host}]" if ":" in host else host
    return bool({host, shown, f"{shown}:{port}"} & names)


def resolve(host: str, port: int, *, allowed: bool, family: str) -> list[str]:
    """The addresses to connect to, all of them checked. Asked once: the connection is made to
    what was checked, so a second answer of a hostile name server is never heard."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _invalid(family, "url_unresolved", host=host) from None
    found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not allowed and not all(is_public(_address(text)) for text in found):
        raise _invalid(family, "url_private", host=host)
    return found


def is_public(address: Address) -> bool:
    """Out on the internet, and unicast; what an IPv6 address wraps counts too."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if any(address in prefix for prefix in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (
        any(address in network for network in _SPECIAL)
        or address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


class _Within(httpcore.NetworkStream):
    """A stream that ends at a moment, however little the other side sends at a time."""

    def __init__(self, stream: httpcore.NetworkStream, end: float) -> None:
        self._stream, self._end = stream, end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return _Within(self._stream.start_tls(ssl_context, server_hostname, left), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise error("it takes too long as a whole")
        return left if timeout is None else min(left, timeout)


class CheckedBackend(httpcore.NetworkBackend):
    """Resolves and checks by ourselves, then connects to exactly what was checked. ``within_s``:
    of a connection as a whole; without it, who calls bounds what may drip in."""

    def __init__(self, *, allowed: bool, family: str, within_s: float | None = None) -> None:
        self._allowed, self._family, self._within_s = allowed, family, within_s
        self._connect = httpcore.SyncBackend().connect_tcp

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._first_that_answers(host, port, timeout, local_address, socket_options)
        if self._within_s is None:
            return stream
        return _Within(stream, time.monotonic() + self._within_s)

    def _first_that_answers(self, host: str, port: int, *how: Any) -> httpcore.NetworkStream:
        found = resolve(host, port, allowed=self._allowed, family=self._family)
        for address in found[:-1]:
            # The next one may answer: an IPv6 address without a route is common.
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port, *how)
        return self._connect(found[-1], port, *how)


def _literal(host: str) -> Address | None:
    """The address that a host is written as, also in the forms that only ``connect`` knows
    (``127.1``, ``0x7f000001``)."""
    try:
        return _address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])  # fe80::1%eth0


def _invalid(family: str, word: str, **params: Any) -> Invalid:
    code = f"{family}.{word}"
    return Invalid(code, fields={"url": code}, **params)
