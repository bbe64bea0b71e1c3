"""Admin pages of teams and limits."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import quotas, teams
from accounts.access import SignedInRequest, admin_only
from accounts.errors import DomainError
from accounts.forms import LimitsForm, TeamForm, add_error
from accounts.fragments import render_page
from accounts.models import Resource, Team, User

_PAGE_SIZE = 50
_WRONG_INPUT = 422


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: SignedInRequest) -> HttpResponse:
    """The list with its search, and the form that makes a team."""
    form = TeamForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        team = _create(request, form)
        if team is not None:
            notices.success(request, _("The team “%(name)s” was made.") % {"name": team.name})
            return redirect("team_detail", team.pk)
    words = request.GET.get("q", "")
    rows = Team.objects.annotate(member_count=Count("memberships")).order_by("name")
    if words:
        rows = rows.filter(name__icontains=words)
    page = Paginator(rows, _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "teams": page.object_list, "q": words, "form": form}
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/team_list.html", context, parts=("rows",), status=status)


@admin_only
@require_safe
def detail(request: SignedInRequest, team_id: int) -> HttpResponse:
    return _detail(request, _find(team_id))


@admin_only
@require_POST
def limits(request: SignedInRequest, team_id: int) -> HttpResponse:
    """Set the team's own limits; an empty field inherits the site's."""
    team = _find(team_id)
    form = LimitsForm(request.POST, inherits=True)
    if not form.is_valid():
        return _detail(request, team, limits_form=form)
    try:
        quotas.set_limits(actor=request.user, team=team, limits=form.limits())
    except DomainError as exc:
        add_error(form, exc)
        return _detail(request, team, limits_form=form)
    notices.success(request, _("The limits of “%(name)s” were saved.") % {"name": team.name})
    return redirect("team_detail", team_id)


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def site_limits(request: SignedInRequest) -> HttpResponse:
    """What a team gets that has no limits of its own."""
    own = quotas.own_limits(None)
    form = LimitsForm(request.POST or None, inherits=False, initial=_initial(own))
    if request.method == "POST" and form.is_valid():
        quotas.set_limits(actor=request.user, limits=form.limits())
        notices.success(request, _("The site's limits were saved."))
        return redirect("site_limits")
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/site_limits.html", {"form": form}, status=status)


def _create(request: SignedInRequest, form: TeamForm) -> Team | None:
    name, username = form.cleaned_data["name"], form.cleaned_data["manager"]
    manager = User.objects.filter(username=username, is_active=True).first()
    if manager is None:
        text = _("There is no active user “%(username)s”.") % {"username": username}
        form.add_error("manager", text)
        return None
    try:
        return teams.create_team(actor=request.user, name=name, manager=manager)
    except DomainError as exc:
        add_error(form, exc)
        return None


def _find(team_id: int) -> Team:
    team = Team.objects.filter(pk=team_id).first()
    if team is None:
        raise Http404
    return team


def _initial(own: dict[Resource, int]) -> dict[str, Any]:
    return {resource.value: hard for resource, hard in own.items()}


def _detail(request: SignedInRequest, team: Team, **changes: Any) -> HttpResponse:
    own = quotas.own_limits(team)
    form = changes.get("limits_form") or LimitsForm(inherits=True, initial=_initial(own))
    site = quotas.own_limits(None)
    used = quotas.usage(team)
    context = {
        "team": team,
        "limits_form": form,
        "limit_rows": [
            {
                "field": form[resource.value],
                "used": quotas.amount_text(resource, used[resource]),
                "inherited": quotas.amount_text(resource, site.get(resource, quotas.UNLIMITED)),
                "own": resource in own,
            }
            for resource in Resource
        ],
    } | changes
    status = _WRONG_INPUT if changes else 200
    return render_page(request, "accounts/team_detail.html", context, status=status)
