"""Downloads in pieces, whole or the one range that is asked for (RFC 9110, section 14): nothing of
them is held in memory."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from accounts import credentials
from accounts.credentials import Credential
from accounts.errors import NotFound
from accounts.models import User

PIECE_BYTES = 256 << 10
ASK_AGAIN_S = 15.0
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


Pieces = Callable[[int, int], AsyncGenerator[bytes, None]]  # (start, end): what lies between
May = Callable[[User], bool]  # whether this person may have it, asked anew while it goes on


def answer(
    request: HttpRequest, path: Path, *, content_type: str, name: str, may: May
) -> HttpResponseBase:
    """A file of the site's. What is written to it meanwhile is not part of it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound from error
    size = path.stat().st_size
    response = stream(
        request,
        size,
        lambda start, end: _pieces(file, start, end),
        content_type=content_type,
        name=name,
        may=may,
    )
    if not response.streaming:
        file.close()
    return response


def stream(
    request: HttpRequest,
    size: int,
    pieces: Pieces,
    *,
    content_type: str,
    name: str,
    may: May,
    tag: str = "",
) -> HttpResponseBase:
    """``tag`` names the content: whoever goes on with a download says by it (``If-Range``) what the
    beginning was of. It breaks off when the session or token that asked for it has ended, or they
    may not any more."""
    asked = request.headers.get("Range", "")
    if tag and request.headers.get("If-Range", f'"{tag}"') != f'"{tag}"':
        asked = ""
    found = _range(asked, size) if asked else (0, size)
    if found is None:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    start, end = found
    credential = credentials.of(request)
    if credential is None:
        raise NotFound
    response = StreamingHttpResponse(
        _as_long_as(credential, may, pieces(start, end)),
        content_type=content_type,
        status=206 if asked else 200,
    )
    if asked:
        response["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if tag:
        response["ETag"] = f'"{tag}"'
    response["Content-Length"] = str(end - start)
    response["Accept-Ranges"] = "bytes"
    response["Cache-Control"] = "private, no-store"
    # It holds what a guest wrote: it is never shown as a page.
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


async def _as_long_as(
    credential: Credential, may: May, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    asked_at = time.monotonic()
    async with aclosing(pieces):
        async for piece in pieces:
            if time.monotonic() - asked_at > ASK_AGAIN_S:
                if not await _still(credential, may):
                    return
                asked_at = time.monotonic()
            yield piece


@database_sync_to_async
def _still(credential: Credential, may: May) -> bool:
    user = credentials.person(credential)
    return user is not None and may(user)


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Start, and end (exclusive). None: not one range of this file."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        end = min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None


async def _pieces(file: BinaryIO, start: int, end: int) -> AsyncGenerator[bytes, None]:
    read = sync_to_async(file.read, thread_sensitive=False)
    try:
        await sync_to_async(file.seek, thread_sensitive=False)(start)
        while start < end and (data := await read(min(PIECE_BYTES, end - start))):
            start += len(data)
            yield data
    finally:
        file.close()
