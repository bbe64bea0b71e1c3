"""What an admin does: choose a file, watch the bar, lose the connection, see the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jobs.models import Job
from tests.front import seed
from tests.images.conftest import image_dir, work  # noqa: F401
from tests.images.disks import MIB, raw_disk
from vms.images import files
from vms.models import Image

pytestmark = pytest.mark.browser
Open = Callable[..., Page]

# As fetch does without a connection.
LOSE_THE_SECOND_PIECE = """
let pieces = 0;
const send = window.fetch;
window.fetch = (url, options) => {
  if (options?.method === "PATCH" && ++pieces === 2) throw new TypeError("no connection");
  return send(url, options);
};
"""


def test_upload_with_a_broken_connection(
    open_page: Open,
    made: seed.Demo,
    tmp_path: Path,
    work: Callable[[Job], Job],  # noqa: F811
    image_dir: Path,  # noqa: F811
) -> None:
    path = raw_disk(tmp_path / "My disk.raw", 20 * MIB)
    page = open_page(made.admin, "/admin/images/new/?source=upload")
    page.evaluate(LOSE_THE_SECOND_PIECE)
    pieces: list[str] = []
    page.on("request", lambda request: pieces.append(request.headers.get("upload-offset", "")))
    page.set_input_files("#upload-file", path)
    page.get_by_label("Name", exact=True).fill("Uploaded disk")
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/admin/images/", timeout=60_000)
    assert [offset for offset in pieces if offset] == ["0", str(8 * MIB), str(16 * MIB)]
    image = Image.objects.get(name="Uploaded disk")
    row = page.locator(f"#image-{image.pk}")
    expect(row).to_be_visible()
    assert work(Job.objects.get(image=image)).state == Job.State.SUCCEEDED
    assert files.stored(Image.objects.get(pk=image.pk)).read_bytes() == path.read_bytes()
    page.reload()
    expect(row).to_contain_text("Published")


def test_a_refusal_is_shown_and_nothing_stays(
    open_page: Open,
    made: seed.Demo,
    tmp_path: Path,
) -> None:
    taken = made.images[0].name
    path = raw_disk(tmp_path / "disk.raw", 2 * MIB)
    page = open_page(made.admin, "/admin/images/new/?source=upload")
    page.set_input_files("#upload-file", path)
    page.get_by_label("Name", exact=True).fill(taken)
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("[data-upload-error]")).to_contain_text("already")
    expect(page.get_by_role("button", name="Upload")).to_be_enabled()
    assert Image.objects.count() == len(made.images)
