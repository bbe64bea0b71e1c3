"""What every template may use. Navigation, gauge and tray are template tags (``frame``), so that
a page that does not draw them asks the database nothing."""

from __future__ import annotations

from django.contrib.auth import BACKEND_SESSION_KEY
from django.http import HttpRequest

from accounts.backends import LdapDirectory
from kvmweb import __version__

_BY_DIRECTORY = f"{LdapDirectory.__module__}.{LdapDirectory.__qualname__}"


def frame(request: HttpRequest) -> dict[str, object]:
    return {
        "site_version": __version__,
        # They have no password here to change.
        "signed_in_by_directory": getattr(request, "session", {}).get(BACKEND_SESSION_KEY)
        == _BY_DIRECTORY,
        "request_id": getattr(request, "request_id", ""),
    }
