"""Admin pages of people: list, create, deactivate, make an admin, new password."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import directory_people, quotas, services
from accounts.access import SignedInRequest, admin_only
from accounts.errors import DomainError
from accounts.forms import UserForm, add_error
from accounts.fragments import render_page
from accounts.models import AuditEntry, Membership, User

_PAGE_SIZE = 50
_RECENT = 20
_WRONG_INPUT = 422


@admin_only
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    words = request.GET.get("q", "")
    rows = services.search_users(words).select_related("personal_team")
    page = Paginator(rows, _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "users": page.object_list, "q": words, "form": UserForm()}
    return render_page(request, "accounts/user_list.html", context, parts=("rows",))


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def create(request: SignedInRequest) -> HttpResponse:
    """The answer shows the generated password, once."""
    form = UserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data
        password = services.generate_password()
        try:
            user = services.create_user(
                request.user,
                chosen["username"],
                chosen["email"],
                password,
                is_staff=chosen["is_admin"],
            )
        except DomainError as exc:
            add_error(form, exc)
        else:
            return _detail(request, user, password=password, created=True)
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/user_create.html", {"form": form}, status=status)


@admin_only
@require_safe
def detail(request: SignedInRequest, user_id: int) -> HttpResponse:
    return _detail(request, _find(user_id))


@admin_only
@require_POST
def set_active(request: SignedInRequest, user_id: int) -> HttpResponse:
    user, active = _find(user_id), request.POST.get("active") == "1"
    services.set_active(actor=request.user, user=user, active=active)
    text = (
        _("%(name)s can sign in again.")
        if active
        else _("%(name)s can no longer sign in; sessions, tokens and consoles were ended.")
    )
    notices.success(request, text % {"name": user.username})
    return redirect("user_detail", user_id)


@admin_only
@require_POST
def set_admin(request: SignedInRequest, user_id: int) -> HttpResponse:
    user, admin = _find(user_id), request.POST.get("admin") == "1"
    services.set_admin(actor=request.user, user=user, admin=admin)
    text = _("%(name)s is an admin now.") if admin else _("%(name)s is no longer an admin.")
    notices.success(request, text % {"name": user.username})
    return redirect("user_detail", user_id)


@admin_only
@require_POST
def reset_password(request: SignedInRequest, user_id: int) -> HttpResponse:
    """The answer shows the generated password, once."""
    user = _find(user_id)
    password = services.generate_password()
    services.set_password(actor=request.user, user=user, password=password)
    return _detail(request, user, password=password)


def _find(user_id: int) -> User:
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise Http404
    return user


def _detail(request: SignedInRequest, user: User, **extra: Any) -> HttpResponse:
    user = _find(user.pk)
    team = services.complete_new_user(user)
    context = {
        "person": user,
        "team": team,
        "quota": quotas.overview(team, user),
        "memberships": Membership.objects.filter(user=user)
        .select_related("team")
        .order_by("team__name"),
        "directory": directory_people.name_of(user),
        "key_count": user.ssh_keys.count(),
        "entries": AuditEntry.objects.filter(actor=user)[:_RECENT],
    }
    return render_page(request, "accounts/user_detail.html", context | extra)
