"""Admin pages of teams."""

from __future__ import annotations

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from accounts import limits, teams
from accounts.access import SignedInRequest, admin_only
from accounts.errors import DomainError
from accounts.forms import TeamForm, add_error
from accounts.fragments import render_page
from accounts.models import Team, User

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
    """The team's quota at a glance; its people have a page of their own (``team_page``)."""
    team = _find(team_id)
    context = {"team": team, "quota": limits.rows(team)}
    return render_page(request, "accounts/team_detail.html", context)


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
