"""A picture of each page, to be looked at: both themes, both languages, a desk and a phone.

    KVMWEB_GALLERY=/tmp/gallery scripts/test pages -- tests/front/test_gallery.py

One sheet a page is written there: a desk in light English and dark Chinese, a phone in dark
English and light Chinese.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.front import seed
from tests.front.test_every_page_is_accessible import DOORS, PAGES, PHONE, chinese, pages

__all__ = ["chinese", "pages"]

FOLDER = os.environ.get("KVMWEB_GALLERY", "")
DESK = {"width": 1280, "height": 800}
LOOKS = (
    ("light", "en-US", DESK),
    ("dark", "zh-CN", DESK),
    ("dark", "en-US", PHONE),
    ("light", "zh-CN", PHONE),
)
TALLEST = 1600  # px of a page that a sheet shows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FOLDER, reason="KVMWEB_GALLERY names no folder"),
]


def sheet(shots: list[bytes]) -> Image.Image:
    pictures = [Image.open(BytesIO(shot)).convert("RGB") for shot in shots]
    pictures = [one.crop((0, 0, one.width, min(one.height, TALLEST))) for one in pictures]
    size = sum(one.width for one in pictures), max(one.height for one in pictures)
    whole = Image.new("RGB", size, "#888888")
    left = 0
    for one in pictures:
        whole.paste(one, (left, 0))
        left += one.width
    return whole


def test_gallery(open_page: Callable[..., Page], made: seed.Demo, pages: list[str]) -> None:
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    views = [
        open_page(
            made.admin,
            color_scheme=scheme,
            locale=locale,
            viewport=size,
            reduced_motion="reduce",
        )
        for scheme, locale, size in LOOKS
    ]
    names = dict(zip(pages, PAGES, strict=True)) | dict(zip(DOORS, DOORS, strict=True))
    for number, (path, name) in enumerate(names.items()):
        if path in DOORS:
            for view in views:
                view.context.clear_cookies()
        shots = []
        for view in views:
            view.goto(path)
            view.wait_for_timeout(150)
            shots.append(view.screenshot(full_page=True))
        word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "overview"
        sheet(shots).save(folder / f"{number:02}-{word}.png")
