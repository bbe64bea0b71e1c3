"""A site below a path (``KVMWEB_SCRIPT_NAME=/kvm``), whether or not the proxy takes it off.

Django knows its own prefix; WebSocket routes and what else reads ``scope["path"]`` do not. Here the
prefix is taken off once, for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


class SubPath:
    """Around the ASGI application. ``prefix``: ``/kvm``, or nothing."""

    def __init__(self, application: Any, prefix: str | None) -> None:
        self.application: Application = application
        self.prefix = (prefix or "").rstrip("/")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if self.prefix and _below(scope.get("path", ""), self.prefix):
            scope = {**scope, "path": scope["path"][len(self.prefix) :] or "/"}
            raw = scope.get("raw_path")
            if raw and raw.startswith(self.prefix.encode()):
                scope["raw_path"] = raw[len(self.prefix) :] or b"/"
        await self.application(scope, receive, send)


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
