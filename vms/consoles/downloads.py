"""A file of the site's as a download, in pieces: nothing of it is held in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from accounts.errors import NotFound

PIECE_BYTES = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def answer(request: HttpRequest, path: Path, *, content_type: str, name: str) -> HttpResponseBase:
    """The whole file, or the one range of it that is asked for (RFC 9110, section 14). What is
    written to it meanwhile is not part of it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound from error
    size = path.stat().st_size
    asked = request.headers.get("Range", "")
    found = _range(asked, size) if asked else (0, size)
    if found is None:
        file.close()
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    start, end = found
    response = StreamingHttpResponse(
        _pieces(file, start, end), content_type=content_type, status=206 if asked else 200
    )
    if asked:
        response["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response["Content-Length"] = str(end - start)
    response["Accept-Ranges"] = "bytes"
    response["Cache-Control"] = "private, no-store"
    # A recording holds what a guest wrote: it is never shown as a page.
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


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


async def _pieces(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    read = sync_to_async(file.read, thread_sensitive=False)
    try:
        await sync_to_async(file.seek, thread_sensitive=False)(start)
        while start < end and (data := await read(min(PIECE_BYTES, end - start))):
            start += len(data)
            yield data
    finally:
        file.close()
