"""The site for browser tests: static files as they are in the tree, on the test's database."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.test")

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from kvmweb import asgi

asgi.by_protocol.application_mapping["http"] = ASGIStaticFilesHandler(asgi.pages)
application = asgi.application
