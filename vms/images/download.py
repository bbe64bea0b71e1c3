"""Bring a file from the network to this machine, within bounds.

Every connection, also after a redirect, is made to an address that was checked a moment before
(``accounts.outbound``); TLS and the Host header keep the name. The file is written to the path
given; whoever calls removes it when anything goes wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import httpcore
from django.conf import settings

from accounts.errors import DomainError, Invalid
from accounts.outbound import CheckedBackend, Source
from vms.images import addresses

GIB = 1024**3
MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 60.0
# What stays free on the site's disk for everything else.
DISK_RESERVE_BYTES = GIB
SPACE_CHECK_BYTES = 64 * 1024 * 1024
CHECKSUM_FILE_BYTES = 1024 * 1024
WRITE_MODE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW

Progress = Callable[[int, "int | None"], None]  # (bytes done, bytes in all or None); may raise

_HEX_LENGTHS = {64: "sha256", 128: "sha512"}
_GNU_LINE = re.compile(r"^\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})\s+\*?(?:\./)?(\S+)$")
_BSD_LINE = re.compile(r"^SHA(?:256|512)\s*\((.+)\)\s*=\s*([0-9a-fA-F]{64}|[0-9a-fA-F]{128})$")


@dataclass(frozen=True, kw_only=True)
class Checksum:
    algorithm: str  # sha256 | sha512
    value: str  # lower-case hexadecimal


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    size_bytes: int
    checksum: Checksum


def parse_checksum(text: str, *, field: str = "checksum") -> Checksum | None:
    """``sha256:…``, ``sha512:…`` or the bare number; None when empty. Raises ``Invalid``."""
    text = text.strip().lower()
    if not text:
        return None
    name, colon, value = text.rpartition(":")
    value = value.strip()
    algorithm = _HEX_LENGTHS.get(len(value))
    if algorithm is None or re.search(r"[^0-9a-f]", value) or (colon and name != algorithm):
        raise Invalid("image.checksum_format", fields={field: "image.checksum_format"})
    return Checksum(algorithm=algorithm, value=value)


def find_checksum(text: str, file_name: str) -> Checksum:
    """The line for ``file_name`` in a vendor's SHA256SUMS, SHA512SUMS or CHECKSUM file."""
    for line in text.splitlines():
        if (match := _GNU_LINE.match(line.strip())) and match[2] == file_name:
            return Checksum(algorithm=_HEX_LENGTHS[len(match[1])], value=match[1].lower())
        if (match := _BSD_LINE.match(line.strip())) and match[1] == file_name:
            return Checksum(algorithm=_HEX_LENGTHS[len(match[2])], value=match[2].lower())
    words = text.split()
    if len(words) == 1 and len(words[0]) in _HEX_LENGTHS:  # a file of nothing but the number
        checksum = parse_checksum(words[0])
        if checksum is not None:
            return checksum
    code = "image.checksum_not_listed"
    raise Invalid(code, fields={"checksum_url": code}, file_name=file_name)


def fetch_checksum(url: str, file_name: str) -> Checksum:
    """Read a vendor's checksum file, under the same rules as an image."""
    with _open(addresses.check_url(url)) as (_length, chunks):
        text = b""
        for chunk in chunks:
            text += chunk
            if len(text) > CHECKSUM_FILE_BYTES:
                raise Invalid("image.checksum_not_listed", file_name=file_name)
    return find_checksum(text.decode("utf-8", "replace"), file_name)


def download(url: str, path: Path, *, checksum: Checksum | None, progress: Progress) -> Downloaded:
    """Write what is at ``url`` to ``path``. Raises ``DomainError`` with an ``image.`` code."""
    with _open(addresses.check_url(url)) as (length, chunks):
        if length is not None:
            refuse_size(length)
            refuse_without_space(path.parent, length)
        progress(0, length)
        digest = hashlib.new(checksum.algorithm if checksum else "sha256")
        with os.fdopen(os.open(path, WRITE_MODE, 0o600), "wb") as target:
            done = _copy(
                chunks,
                target,
                digest,
                folder=path.parent,
                progress=lambda done: progress(done, length),
            )
            target.flush()
            os.fsync(target.fileno())
    got = Checksum(algorithm=digest.name, value=digest.hexdigest())
    verify_checksum(checksum, got)
    return Downloaded(size_bytes=done, checksum=got)


def hash_file(path: Path, algorithm: str, progress: Progress) -> Checksum:
    """The checksum of a file that is here already (an upload, or one built here)."""
    digest = hashlib.new(algorithm)
    total, done = path.stat().st_size, 0
    with path.open("rb") as source:
        while chunk := source.read(1024 * 1024):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
    return Checksum(algorithm=algorithm, value=digest.hexdigest())


def verify_checksum(wanted: Checksum | None, got: Checksum) -> None:
    if wanted is not None and wanted != got:
        raise Invalid("image.checksum_mismatch", wanted=wanted.value[:16], got=got.value[:16])


def refuse_without_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free - needed_bytes < DISK_RESERVE_BYTES:
        needed_gib = round(needed_bytes / GIB, 1)
        free_gib = round(max(0, free - DISK_RESERVE_BYTES) / GIB, 1)
        raise DomainError("image.no_space", needed_gib=needed_gib, free_gib=free_gib)


def refuse_size(size_bytes: int) -> None:
    limit_gib: int = settings.IMAGE_MAX_FILE_GIB
    if size_bytes > limit_gib * GIB:
        raise Invalid("image.file_too_big", limit_gib=limit_gib)


def _copy(
    chunks: Iterable[bytes],
    target: BinaryIO,
    digest: hashlib._Hash,
    *,
    folder: Path,
    progress: Callable[[int], None],
) -> int:
    """How many bytes were written; each is counted, hashed and checked against the limits."""
    done, next_space_check = 0, SPACE_CHECK_BYTES
    for chunk in chunks:
        done += len(chunk)
        refuse_size(done)
        if done >= next_space_check:
            refuse_without_space(folder, 0)
            next_space_check += SPACE_CHECK_BYTES
        digest.update(chunk)
        target.write(chunk)
        progress(done)
    return done


@contextmanager
def _open(source: Source) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """The length (if told) and the body of what ``source`` leads to."""
    with _translated(source):
        for _ in range(MAX_REDIRECTS + 1):
            with _request(source) as response:
                headers = {k.decode("latin-1").lower(): v for k, v in response.headers}
                if response.status in {301, 302, 303, 307, 308}:
                    source = _follow(source, headers.get("location", b""))
                    continue
                if response.status != 200:
                    raise Invalid("image.http_status", status=response.status, host=source.host)
                length = headers.get("content-length", b"").decode("latin-1")
                yield (int(length) if length.isdigit() else None), _body(response, source)
                return
        raise Invalid("image.redirects", limit=MAX_REDIRECTS)


@contextmanager
def _request(source: Source) -> Iterator[httpcore.Response]:
    # No proxy from the environment: it would make the connection for us, to where it likes.
    with httpcore.ConnectionPool(
        ssl_context=_tls(),
        network_backend=CheckedBackend(allowed=source.allowed, family=addresses.FAMILY),
    ) as pool:
        url = httpcore.URL(
            scheme=source.url.raw_scheme,
            host=source.host.encode("ascii"),
            port=source.port,
            target=source.url.raw_path,
        )
        timeouts = {
            "connect": CONNECT_TIMEOUT_S,
            "read": READ_TIMEOUT_S,
            "write": READ_TIMEOUT_S,
            "pool": CONNECT_TIMEOUT_S,
        }
        headers: dict[bytes | str, bytes | str] = {
            "Host": source.url.netloc.decode("ascii"),
            "User-Agent": "KVMWeb",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        with pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response:
            yield response


def _body(response: httpcore.Response, source: Source) -> Iterator[bytes]:
    with _translated(source):
        yield from response.iter_stream()


def _follow(source: Source, location: bytes) -> Source:
    import httpx

    try:
        url = source.url.join(location.decode("ascii"))
    except (httpx.InvalidURL, ValueError):
        raise Invalid("image.url_invalid") from None
    if source.url.scheme == "https" and url.scheme == "http" and not source.allowed:
        raise Invalid("image.url_not_https", host=url.host)
    return addresses.check_url(str(url))


@contextmanager
def _translated(source: Source) -> Iterator[None]:
    """httpcore's and ssl's errors as ours, once."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise DomainError("image.download_timeout", host=source.host) from error
    except httpcore.ConnectError as error:
        if isinstance(error.__cause__, ssl.SSLError) or "SSL" in str(error):
            raise Invalid("image.tls_failed", host=source.host) from error
        raise DomainError("image.unreachable", host=source.host) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise DomainError("image.download_broken", host=source.host) from error


@cache
def _tls() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()
