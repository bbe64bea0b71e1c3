from __future__ import annotations

from django.urls import path

from hosts import views

urlpatterns = [
    path("admin/hosts/", views.index, name="host_list"),
    path("admin/hosts/new/", views.add, name="host_add"),
    path("admin/hosts/<int:host_id>/", views.detail, name="host_detail"),
    path("admin/hosts/<int:host_id>/refresh/", views.refresh, name="host_refresh"),
    path("admin/hosts/<int:host_id>/probe/", views.probe, name="host_probe"),
    path("admin/hosts/<int:host_id>/mode/", views.set_mode, name="host_mode"),
    path("admin/hosts/<int:host_id>/acceleration/", views.override, name="host_acceleration"),
    path(
        "admin/hosts/<int:host_id>/networks/<int:network_id>/",
        views.set_network,
        name="host_network",
    ),
    path("admin/hosts/<int:host_id>/limits/", views.set_limits, name="host_limits"),
    path("admin/hosts/<int:host_id>/backups/", views.set_backup_place, name="host_backups"),
    path("admin/hosts/<int:host_id>/adopt/<int:untracked_id>/", views.adopt, name="host_adopt"),
    path("admin/hosts/<int:host_id>/sweep/", views.sweep, name="host_sweep"),
    path("admin/hosts/<int:host_id>/remove/", views.remove, name="host_remove"),
]
