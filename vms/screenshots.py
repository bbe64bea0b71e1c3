"""What a machine's screen shows. Taken by a worker, kept for a while in the cache.

A page or the API gets the last picture at once and has a new one taken for the next time; nobody
who looks at a page waits for a host.
"""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from celery import current_app
from django.core.cache import cache
from kombu.exceptions import OperationalError
from PIL import Image as Picture
from PIL import UnidentifiedImageError
from redis.exceptions import RedisError

from hosts import connections
from hosts.virt.errors import VirtError
from vms import state
from vms.models import VM

if TYPE_CHECKING:
    from datetime import datetime

log = logging.getLogger(__name__)

TASK = "vms.take_screenshot"
KEPT_S = 600
POLL_S = 0.1
FRESH_S = 5  # younger than this, it is not taken again
WIDTH_MAX, HEIGHT_MAX = 1280, 1024
SMALL = (320, 256)  # for lists
# A guest chooses the size of its screen; one this large is not decoded.
PIXELS_MAX = 4096 * 4096
WEBP_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Shot:
    content: bytes
    content_type: str = "image/webp"


def latest(vm: VM, *, small: bool = False) -> Shot | None:
    """The last picture, None while there is none (or the machine is off). Has a new one taken
    unless that has just been done. Never raises, never waits."""
    if vm.observed not in state.ON:
        return None
    try:
        if cache.add(_asked_key(vm.uuid), 1, FRESH_S):
            _send(vm.uuid)
        content = cache.get(_key(vm.uuid, vm.started_at, small=small))
    except (RedisError, OSError) as error:
        log.info("no screenshot, the cache does not answer: %s", error)
        return None
    return Shot(content=content) if isinstance(content, bytes) else None


def first(vm: VM, *, timeout_s: float = 5.0) -> Shot | None:
    """As ``latest``, but waits for a worker's first picture. For the API, never for a page."""
    end = time.monotonic() + timeout_s
    while (shot := latest(vm)) is None and vm.observed in state.ON and time.monotonic() < end:
        time.sleep(POLL_S)
    return shot


def as_png(shot: Shot) -> Shot:
    """For those who do not take WebP."""
    out = io.BytesIO()
    with Picture.open(io.BytesIO(shot.content), formats=["WEBP"]) as picture:
        picture.save(out, "PNG")
    return Shot(content=out.getvalue(), content_type="image/png")


def take(uuid: UUID) -> bool:
    """Take one now; called by the worker. False: the machine or its host gives none."""
    vm = VM.objects.alive().select_related("host").filter(uuid=uuid).first()
    if vm is None or vm.host is None or vm.observed not in state.ON:
        return False
    try:
        png = connections.hypervisor(vm.host).screenshot(vm.uuid)
        content, small = compact(png), compact(png, SMALL)
    except VirtError as error:
        log.info("no screenshot of %s: %s [%s]", uuid, error.raw, error.ref)
        return False
    except (UnidentifiedImageError, Picture.DecompressionBombError, OSError, ValueError) as error:
        log.info("the screenshot of %s is no picture: %s", uuid, error)
        return False
    key = _key(vm.uuid, vm.started_at)
    is_first = cache.get(key) is None
    cache.set(_key(vm.uuid, vm.started_at, small=True), small, KEPT_S)
    cache.set(key, content, KEPT_S)
    if is_first:
        state.announce(vm)  # pages that wait for it; later ones they ask for as they like
    return True


def compact(png: bytes, most: tuple[int, int] = (WIDTH_MAX, HEIGHT_MAX)) -> bytes:
    """Small enough to be kept for each machine. ValueError for a screen that is too large."""
    with Picture.open(io.BytesIO(png), formats=["PNG", "PPM"]) as picture:
        if picture.width * picture.height > PIXELS_MAX:
            raise ValueError(f"{picture.width} x {picture.height}")
        shown = picture.convert("RGB")
    shown.thumbnail(most)
    out = io.BytesIO()
    shown.save(out, "WEBP", quality=WEBP_QUALITY)
    return out.getvalue()


def _send(uuid: UUID) -> None:
    try:
        current_app.send_task(TASK, [str(uuid)], queue="quick", expires=FRESH_S * 4, retry=False)
    except (OperationalError, OSError) as error:
        log.info("no screenshot is taken, the broker does not answer: %s", error)


def _key(uuid: UUID, started_at: datetime | None, *, small: bool = False) -> str:
    # A picture of an earlier run is not shown.
    run = int(started_at.timestamp()) if started_at else 0
    return f"screenshot{'-small' if small else ''}:{uuid}:{run}"


def _asked_key(uuid: UUID) -> str:
    return f"screenshot-asked:{uuid}"
