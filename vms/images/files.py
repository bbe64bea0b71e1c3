"""Where the site keeps images: ``<uuid>.part`` while one arrives, ``<uuid>.<format>`` for good."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from django.conf import settings

from vms.models import Image

_SUFFIXES = ("part", "disk", "converted", "qcow2", "raw")
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID})\.({'|'.join(_SUFFIXES)})")


def folder() -> Path:
    """The site's image folder, made when it is first needed; nobody else may look inside."""
    path = Path(settings.IMAGE_DIR)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def part(image: Image) -> Path:
    return folder() / f"{image.uuid}.part"


def unpacked(image: Image) -> Path:
    """The disk out of an archive (OVA), before its conversion."""
    return folder() / f"{image.uuid}.disk"


def converted(image: Image) -> Path:
    return folder() / f"{image.uuid}.converted"


def stored(image: Image) -> Path:
    """The inspected file. Only meaningful once ``image.format`` is known."""
    return folder() / f"{image.uuid}.{image.format}"


def remove(image: Image) -> None:
    """All files of an image. Idempotent."""
    for suffix in _SUFFIXES:
        (folder() / f"{image.uuid}.{suffix}").unlink(missing_ok=True)


def settled(older_than_s: float) -> Iterator[tuple[UUID, Path]]:
    """Files of ours that nobody has written for a while, with the image they are named after."""
    for path in folder().iterdir():
        match = _NAME.fullmatch(path.name)
        if match and time.time() - path.stat().st_mtime > older_than_s:
            yield UUID(match[1]), path
