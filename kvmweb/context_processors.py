"""What every template may use. Navigation, gauge and tray are template tags (``frame``), so that
a page that does not draw them asks the database nothing."""

from __future__ import annotations

from django.http import HttpRequest

from kvmweb import __version__


def frame(request: HttpRequest) -> dict[str, object]:
    return {
        "site_version": __version__,
        "request_id": getattr(request, "request_id", ""),
    }
