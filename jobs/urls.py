"""Addresses of the activity pages."""

from __future__ import annotations

from django.urls import path

from jobs import views

urlpatterns = [
    path("activity/", views.job_list, name="job_list"),
    path("activity/<uuid:job_id>/", views.job_detail, name="job_detail"),
    path("activity/<uuid:job_id>/cancel/", views.job_cancel, name="job_cancel"),
    path("activity/<uuid:job_id>/retry/", views.job_retry, name="job_retry"),
]
