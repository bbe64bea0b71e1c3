"""WebSockets of this app."""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from vms.consoles import carrier_asgi

# Raw ASGI applications: they check ticket and Origin themselves, so no session is looked up.
raw_websocket_routes: list[Any] = [
    re_path(
        r"^ws/console/(vnc|view|serial|serial/log)$",
        carrier_asgi.application,  # type: ignore[arg-type]
    ),
]
websocket_urlpatterns: list[Any] = []
