"""An admin uploads an image in pieces; a broken connection goes on where it stopped."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from jobs.models import Job
from tests.images.disks import qemu_img
from vms.images import files, uploads
from vms.models import Image

Work = Callable[[Job], Job]
PIECE = 100_000


@pytest.fixture
def page(browser: Callable[[User], Client], admin: User) -> Client:
    """The admin's browser, which sends the CSRF token as our page does."""
    return browser(admin)


def begin(page: Client, size: int, **more: Any) -> Any:
    body = {"name": "Mine", "size_bytes": size, "file_name": "mine.qcow2", **more}
    return page.post("/api/v1/images/uploads", body, content_type="application/json")


def send(page: Client, image_id: int, offset: int, data: bytes) -> Any:
    return page.patch(
        f"/api/v1/images/{image_id}/upload",
        data,
        content_type="application/offset+octet-stream",
        headers={"Upload-Offset": str(offset)},
    )


def send_all(page: Client, image_id: int, data: bytes, start: int = 0) -> Any:
    answer = None
    for offset in range(start, len(data), PIECE):
        answer = send(page, image_id, offset, data[offset : offset + PIECE])
        assert answer.status_code == 200, answer.content
    return answer


def test_in_pieces_to_the_end(
    page: Client, disk: Path, sha256: str, work: Work, image_dir: Path
) -> None:
    data = disk.read_bytes()
    answer = begin(page, len(data), publish=True, checksum=sha256)
    assert answer.status_code == 201, answer.content
    assert answer.json()["upload"]["offset"] == 0
    last = send_all(page, answer.json()["id"], data).json()
    assert last["offset"] == len(data)
    job = work(Job.objects.get(pk=last["job"]["id"]))
    assert job.state == Job.State.SUCCEEDED, job.error_code
    image = Image.objects.get()
    assert (image.state, image.published, image.checksum) == ("ready", True, sha256)
    assert files.stored(image).read_bytes() == data
    assert len(list(image_dir.iterdir())) == 1


def test_goes_on_where_it_stopped(page: Client, disk: Path) -> None:
    data = disk.read_bytes()
    image_id = begin(page, len(data)).json()["id"]
    send(page, image_id, 0, data[:PIECE])
    # The connection broke inside the second piece: its beginning is in the file.
    image = Image.objects.get()
    with files.part(image).open("ab") as handle:
        handle.write(b"rubbish")
    asked = page.get(f"/api/v1/images/{image_id}/upload")
    assert asked.json()["offset"] == PIECE
    assert asked["Upload-Offset"] == str(PIECE)
    wrong = send(page, image_id, 0, data[:PIECE])
    assert wrong.status_code == 409
    assert wrong.json()["params"]["offset"] == PIECE
    send_all(page, image_id, data, start=PIECE)
    assert files.part(image).read_bytes() == data


def test_two_at_once_are_refused(page: Client, disk: Path) -> None:
    image_id = begin(page, disk.stat().st_size).json()["id"]
    image = Image.objects.get()
    descriptor = os.open(files.part(image), os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        answer = send(page, image_id, 0, b"x")
    finally:
        os.close(descriptor)
    assert answer.status_code == 409
    assert answer.json()["code"] == "image.upload_busy"


@pytest.mark.parametrize("offset", ["", "-1", "x", "1e3", "9" * 30])
def test_silly_offsets(offset: str, page: Client) -> None:
    image_id = begin(page, 1000).json()["id"]
    answer = page.patch(
        f"/api/v1/images/{image_id}/upload",
        b"x",
        content_type="application/offset+octet-stream",
        headers={"Upload-Offset": offset},
    )
    assert answer.status_code == 409


def test_more_than_was_announced(page: Client) -> None:
    image_id = begin(page, 10).json()["id"]
    answer = send(page, image_id, 0, b"x" * 11)
    assert (answer.status_code, answer.json()["code"]) == (422, "image.upload_too_long")
    assert send(page, image_id, 0, b"").status_code == 422


def test_sizes_that_are_refused(page: Client, settings: Any) -> None:
    assert begin(page, 0).status_code == 422
    assert begin(page, (settings.IMAGE_MAX_FILE_GIB * 1024**3) + 1).status_code == 422
    assert begin(page, 10, name="").status_code == 422
    assert not Image.objects.exists()


def test_a_hostile_upload_is_removed(
    page: Client, tmp_path: Path, work: Work, image_dir: Path
) -> None:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1G")
    data = path.read_bytes()
    image_id = begin(page, len(data), file_name="disk.raw").json()["id"]
    last = send_all(page, image_id, data).json()
    job = work(Job.objects.get(pk=last["job"]["id"]))
    assert job.error_code == "image.backing_file"
    shown = page.get(f"/api/v1/images/{image_id}").json()
    assert shown["state"] == "failed"
    assert "backing file" in shown["error"]["message"]
    assert list(image_dir.iterdir()) == []
    assert send(page, image_id, 0, b"x").status_code == 409


def test_cancel(page: Client, disk: Path, image_dir: Path) -> None:
    data = disk.read_bytes()
    image_id = begin(page, len(data)).json()["id"]
    send(page, image_id, 0, data[:PIECE])
    assert page.delete(f"/api/v1/images/{image_id}/upload").status_code == 204
    assert not Image.objects.exists()
    assert list(image_dir.iterdir()) == []


def test_an_abandoned_upload_is_given_up(page: Client, disk: Path, image_dir: Path) -> None:
    data = disk.read_bytes()
    image_id = begin(page, len(data)).json()["id"]
    send(page, image_id, 0, data[:PIECE])
    uploads.tidy()
    assert Image.objects.get().state == "new"
    long_ago = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=2)
    os.utime(files.part(Image.objects.get()), (long_ago.timestamp(),) * 2)
    uploads.tidy()
    image = Image.objects.get()
    assert (image.state, image.error_code) == ("failed", "image.upload_abandoned")
    assert list(image_dir.iterdir()) == []


def test_others_may_not(
    browser: Callable[[User], Client], owner: User, page: Client, disk: Path
) -> None:
    image_id = begin(page, 1000).json()["id"]
    outside = browser(owner)
    assert begin(outside, 1000, name="Other").status_code == 403
    assert send(outside, image_id, 0, b"x").status_code == 403
    assert outside.get(f"/api/v1/images/{image_id}/upload").status_code == 403
    assert outside.delete(f"/api/v1/images/{image_id}/upload").status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = page.cookies
    assert send(strict, image_id, 0, b"x").status_code == 403  # without the CSRF token
