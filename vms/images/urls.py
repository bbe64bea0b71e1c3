"""Addresses of the pages of images and sizes."""

from django.urls import path

from vms.images import flavor_views, views

urlpatterns = [
    path("images/", views.image_list, name="image_list"),
    path("admin/images/", views.admin_image_list, name="admin_image_list"),
    path("admin/images/new/", views.admin_image_add, name="admin_image_add"),
    path("admin/images/<int:image_id>/", views.admin_image_edit, name="admin_image_edit"),
    path("admin/images/<int:image_id>/<slug:verb>/", views.admin_image_act, name="admin_image_act"),
    path("admin/flavors/", flavor_views.flavor_list, name="flavor_list"),
    path("admin/flavors/new/", flavor_views.flavor_add, name="flavor_add"),
    path("admin/flavors/<int:flavor_id>/", flavor_views.flavor_edit, name="flavor_edit"),
    path("admin/flavors/<int:flavor_id>/delete/", flavor_views.flavor_delete, name="flavor_delete"),
]
