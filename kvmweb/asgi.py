"""ASGI entry: pages and API by Django, WebSockets by Channels and the console carrier.

Consoles come before the session is looked up: they are raw ASGI applications that check their own
ticket and Origin, and nothing of Channels stands between a viewer's bytes and the machine.
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
pages = get_asgi_application()  # sets Django up: what follows imports models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import re_path  # noqa: E402

from jobs.routing import websocket_urlpatterns as job_routes  # noqa: E402
from kvmweb.body_limit import BodyLimit  # noqa: E402
from kvmweb.subpath import SubPath  # noqa: E402
from vms.consoles import pings  # noqa: E402
from vms.routing import raw_websocket_routes  # noqa: E402
from vms.routing import websocket_urlpatterns as vm_routes  # noqa: E402

pings.bound()


async def refuse(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    """Refuse the handshake (403), rather than the router's exception for an unknown path."""
    await send({"type": "websocket.close"})


no_such_socket: Any = refuse  # ASGI applications, where Django's stubs want views
with_session: Any = AllowedHostsOriginValidator(
    AuthMiddlewareStack(URLRouter([*job_routes, *vm_routes, re_path(r"", no_such_socket)]))
)
everything: Any = [*raw_websocket_routes, re_path(r"", with_session)]
by_protocol = ProtocolTypeRouter({"http": BodyLimit(pages), "websocket": URLRouter(everything)})
application = SubPath(by_protocol, settings.FORCE_SCRIPT_NAME)
