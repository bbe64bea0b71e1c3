"""The bell, the page behind it, and what comes by mail."""

from __future__ import annotations

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import notifications
from accounts.access import SignedInRequest, signed_in
from accounts.fragments import render_page

_PAGE_SIZE = 50


@signed_in
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """Everything that was told, the newest first; ``?part=bell`` is the frame's."""
    context: dict[str, object] = {"unread": notifications.unread_count(request.user)}
    if request.GET.get("part") != "bell":
        page = Paginator(notifications.of(request.user), _PAGE_SIZE).get_page(
            request.GET.get("page")
        )
        context["page"] = page
        context["rows"] = [(row, notifications.text(row)) for row in page.object_list]
    return render_page(request, "accounts/notification_list.html", context, parts=("bell", "news"))


@signed_in
@require_POST
def follow(request: SignedInRequest, notification_id: int) -> HttpResponse:
    """Mark it read and go where it leads."""
    row = notifications.mark_read(request.user, notification_id)
    goal = row.url if row else ""
    if goal and url_has_allowed_host_and_scheme(goal, None):
        return redirect(goal)
    return redirect("notification_list")


@signed_in
@require_POST
def read_all(request: SignedInRequest) -> HttpResponse:
    notifications.mark_read(request.user)
    return redirect("notification_list")


@signed_in
@require_POST
def choose(request: SignedInRequest) -> HttpResponse:
    wanted = {
        topic: request.POST[topic] for topic in notifications.topics() if topic in request.POST
    }
    notifications.choose(request.user, wanted)
    notices.success(request, _("Your choices were saved."))
    return redirect("profile")
