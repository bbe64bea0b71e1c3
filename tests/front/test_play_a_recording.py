"""Recordings in the page: a screen and a serial line, played to the end, entered in the middle."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from tests.front import consoles, seed
from vms.models import ConsoleRecording

pytestmark = pytest.mark.browser
GREETING = b"RFB 003.008\n\x01\x01" + struct.pack(">I", 0) + consoles._server_init()
LINES = (
    {"version": 2, "width": 80, "height": 24},
    [0.1, "o", "first\r\n"],
    [1.2, "o", "last\r\n"],
)
CAST = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def frame(colour: bytes) -> bytes:
    size = struct.pack(">HHHHi", 0, 0, consoles.WIDTH, consoles.HEIGHT, 0)
    return struct.pack(">BxH", 0, 1) + size + colour * (consoles.WIDTH * consoles.HEIGHT)


def fbs(*pieces: tuple[int, bytes]) -> bytes:
    found = b"FBS 001.000\n"
    for at, data in pieces:
        found += struct.pack(">I", len(data)) + data + bytes(-len(data) % 4) + struct.pack(">I", at)
    return found


SCREEN = fbs((0, GREETING), (100, frame(b"\xff\0\0\0")), (1200, frame(b"\0\0\xff\0")))


@pytest.mark.parametrize("kind", ["vnc", "serial"])
def test_it_plays_and_seeks(open_page: Callable[..., Page], made: seed.Demo, kind: str) -> None:
    vm = seed.machine(made, "web-1")
    row = ConsoleRecording.objects.create(
        vm=vm, kind=kind, ended_at=timezone.now(), duration_ms=1200, path="x"
    )
    page = open_page(made.member, "/machines/")
    data = SCREEN if kind == "vnc" else CAST
    page.route("**/data", lambda route: _answer(route, data))
    page.goto(f"/recordings/{row.pk}/")
    expect(page.locator("html[data-player=paused]")).to_have_count(1, timeout=15_000)
    assert shown(page, kind, at_end=True)
    page.locator("#seek").fill("200")
    page.wait_for_function("document.querySelector('#clock').textContent.startsWith('0:00')")
    page.wait_for_timeout(150)
    assert shown(page, kind, at_end=False)


def shown(page: Page, kind: str, *, at_end: bool) -> bool:
    if kind == "serial":
        text = page.locator("#terminal .xterm-rows").inner_text()
        return "first" in text and ("last" in text) == at_end
    canvas = "document.querySelector('#screen canvas').getContext('2d')"
    pixel = page.evaluate(f"[...{canvas}.getImageData(9, 9, 1, 1).data]")
    # noVNC takes red first: the first picture is red, the second blue.
    return bool(pixel[2] > 200) == at_end and bool(pixel[0] > 200) != at_end


def _answer(route: Route, data: bytes) -> Any:
    route.fulfill(content_type="application/octet-stream", body=data)
