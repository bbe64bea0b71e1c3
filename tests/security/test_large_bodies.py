"""One request of a stranger must not fill the disk: Django's ASGI handler spools every body."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from kvmweb.asgi import application
from kvmweb.body_limit import UPLOAD_MAX_BYTES
from vms.images import uploads

pytestmark = pytest.mark.django_db(transaction=True)
CHUNK = bytes(1 << 20)
CHUNKS = 40  # far more than any form or JSON of ours


def scope(path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("192.0.2.7", 4711),
        "server": ("localhost", 80),
        "scheme": "http",
    }


def send(path: str, *headers: tuple[bytes, bytes], chunks: int = CHUNKS) -> dict[str, Any]:
    """What the site answers to a body of so many MiB."""

    async def talk() -> dict[str, Any]:
        told = ApplicationCommunicator(application, scope(path, *headers))  # type: ignore[arg-type]
        for number in range(chunks):
            more = number < chunks - 1
            await told.send_input({"type": "http.request", "body": CHUNK, "more_body": more})
        start: dict[str, Any] = await told.receive_output(10)
        body = await told.receive_output(10)
        await told.send_input({"type": "http.disconnect"})
        await told.wait(10)
        return start | {"text": body["body"].decode()}

    return asyncio.run(talk())


@pytest.fixture
def spooled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes Django wrote into each temporary file of a request's body."""
    import tempfile

    sizes: list[int] = []

    class Counted(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def close(self) -> None:
            if not self.closed:
                sizes.append(self.seek(0, 2))
            super().close()

    monkeypatch.setattr("django.core.handlers.asgi.tempfile.SpooledTemporaryFile", Counted)
    return sizes


@pytest.mark.parametrize("path", ["/accounts/login/", "/api/v1/vms", "/nothing/here", "/healthz"])
def test_a_body_without_end_is_cut_off(path: str, spooled: list[int]) -> None:
    answer = send(path)
    assert answer["status"] == 413
    assert sum(spooled) <= 4 << 20, f"{sum(spooled) >> 20} MiB were kept for a stranger"


def test_one_that_says_its_size_is_not_read_at_all(spooled: list[int]) -> None:
    answer = send("/api/v1/vms", (b"content-length", str(40 << 20).encode()))
    assert answer["status"] == 413
    assert '"code": "body_too_large"' in answer["text"]
    assert (b"Connection", b"close") in answer["headers"]
    assert sum(spooled) == 0


def test_pieces_of_images_may_be_large(spooled: list[int]) -> None:
    assert send("/api/v1/images/1/upload", chunks=8)["status"] == 405  # read, and then judged
    assert send("/api/v1/images/1/upload", chunks=65)["status"] == 413


def test_the_limit_of_a_piece_is_the_uploads_own() -> None:
    assert uploads.CHUNK_MAX_BYTES == UPLOAD_MAX_BYTES
