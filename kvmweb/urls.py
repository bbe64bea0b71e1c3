"""Where everything is mounted. Each app has its own ``urls.py``."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from kvmweb import error_pages, health
from kvmweb.api import api

handler400 = error_pages.bad_request
handler403 = error_pages.forbidden
handler404 = error_pages.not_found
handler500 = error_pages.server_error

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("api/v1/", api.urls),
    path("accounts/", include("allauth.urls")),
    path("django-admin/", admin.site.urls),
    path("", include("accounts.urls")),
    path("", include("jobs.urls")),
    path("", include("hosts.urls")),
    path("", include("vms.urls")),
]
