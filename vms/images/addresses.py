"""From where images may come: the rules of ``accounts.outbound``, with ``IMAGE_ALLOWED_HOSTS``."""

from __future__ import annotations

from django.conf import settings

from accounts import outbound
from accounts.outbound import MAX_URL, Source, is_public

__all__ = ["FAMILY", "MAX_URL", "Source", "check_url", "is_public"]

FAMILY = "image"


def check_url(text: str) -> Source:
    """Raises ``Invalid``."""
    return outbound.check_url(text, allowed_hosts=settings.IMAGE_ALLOWED_HOSTS, family=FAMILY)
