"""WebSockets of this app."""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from jobs.consumers import LiveConsumer

live: Any = LiveConsumer.as_asgi()  # an ASGI application, where Django's stubs want a view
websocket_urlpatterns: list[Any] = [re_path(r"^ws/live$", live)]
