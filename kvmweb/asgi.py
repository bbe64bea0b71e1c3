"""ASGI entry: pages and API by Django, WebSockets by Channels and the console carrier."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings")
application = get_asgi_application()
