"""Limits: the site's, a team's, a member's in a team; inherited or overridden."""

from __future__ import annotations

from django.contrib import messages as notices
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import grants, limits, policy, quotas
from accounts.access import SignedInRequest, admin_only, signed_in
from accounts.errors import NotFound
from accounts.forms import LimitsForm
from accounts.fragments import render_page
from accounts.models import QuotaRecount, Resource, Team, User
from accounts.policy import Action

_WRONG_INPUT = 422
_OVER_SHOWN = 50


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def site(request: SignedInRequest) -> HttpResponse:
    """What a team gets that has no limits of its own; who is over; what the last recount found."""
    form = LimitsForm(request.POST or None, rows=limits.rows(None), inherits=False)
    if request.method == "POST" and form.is_valid():
        quotas.set_limits(actor=request.user, limits=form.limits())
        _say_saved(request, limits.over())
        return redirect("site_limits")
    own = limits.teams_with_own()
    over = limits.over()
    context = {
        "form": form,
        "over": over[:_OVER_SHOWN],
        "over_count": len(over),
        "recount": QuotaRecount.objects.first(),
        "last_difference": QuotaRecount.objects.exclude(differences=[]).first(),
        "teams": [
            {"team": team, "count": own[team.pk]}
            for team in Team.objects.filter(pk__in=own).order_by("name")
        ],
    }
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/site_limits.html", context, status=status)


@signed_in
@require_safe
def team(request: SignedInRequest, team_id: int) -> HttpResponse:
    return _team_page(request, _find(request.user, team_id))


@signed_in
@require_POST
def set_team(request: SignedInRequest, team_id: int) -> HttpResponse:
    """Save the team's own limits, or clear one of them."""
    found = _find(request.user, team_id)
    quotas.require_may_limit(request.user, found, None)
    form = LimitsForm(request.POST, rows=limits.rows(found), inherits=True)
    if not _save(request, form, found, None):
        return _team_page(request, found, form=form)
    return redirect("team_quota", team_id)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def member(request: SignedInRequest, team_id: int, user_id: int) -> HttpResponse:
    """One member's own limits in the team: for the member to see, for a manager to set."""
    found = _find(request.user, team_id)
    row = found.memberships.select_related("user").filter(user=user_id).first()
    if row is None:
        raise NotFound
    person = row.user
    may_set = _may_limit(request.user, found, person)
    if not may_set and person.pk != request.user.pk:
        policy.require(request.user, Action.TEAM_MANAGE, found)
    rows = limits.rows(found, person)
    form = LimitsForm(request.POST or None, rows=rows, inherits=True)
    if request.method == "POST":
        quotas.require_may_limit(request.user, found, person)
        if _save(request, form, found, person):
            return redirect("member_quota", team_id, user_id)
    context = {
        "team": found,
        "person": person,
        "form": form,
        "editable": may_set,
        "quota": rows,
    }
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/member_quota.html", context, status=status)


def _team_page(
    request: SignedInRequest, found: Team, *, form: LimitsForm | None = None
) -> HttpResponse:
    rows = limits.rows(found)
    door = policy.door(request.user)
    manages = door.can(Action.TEAM_MANAGE, found)
    own = limits.overridden_members(found)
    people = limits.members(found) if manages else []
    context = {
        "team": found,
        "quota": rows,
        "form": form or LimitsForm(rows=rows, inherits=True),
        "editable": door.can(Action.SITE_ADMIN),
        "manages": manages,
        "mine": quotas.overview(found, request.user),
        "over": [one for one in limits.over([found]) if manages or one.user is None],
        "grants": grants.of_team(found, request.user),
        "may_ask": door.can(Action.TEAM_CREATE_VM, found),
        "people": [{"row": row, "own": own.get(row.user_id, 0)} for row in people],
    }
    status = _WRONG_INPUT if form is not None else 200
    return render_page(request, "accounts/team_quota.html", context, status=status)


def _save(request: SignedInRequest, form: LimitsForm, of: Team, person: User | None) -> bool:
    cleared = request.POST.get("clear", "")
    if cleared in Resource.values:
        resource = Resource(cleared)
        quotas.set_limit(actor=request.user, resource=resource, hard=None, team=of, user=person)
        text = _("The override of “%(resource)s” was cleared.")
        notices.success(request, text % {"resource": resource.label})
        return True
    if not form.is_valid():
        return False
    quotas.set_limits(actor=request.user, limits=form.limits(), team=of, user=person)
    over = [one for one in limits.over([of]) if person is None or one.user == person]
    _say_saved(request, over)
    return True


def _say_saved(request: SignedInRequest, over: list[limits.Over]) -> None:
    notices.success(request, _("The limits were saved."))
    for one in over[:_OVER_SHOWN]:
        text = _("%(over)s. Nothing is taken away; it cannot grow until it fits again.")
        notices.warning(request, text % {"over": one.text})


def _may_limit(actor: User, of: Team, person: User) -> bool:
    if person.pk == actor.pk:
        return policy.can(actor, Action.SITE_ADMIN)
    return policy.can(actor, Action.TEAM_MANAGE, of)


def _find(user: User, team_id: int) -> Team:
    found = Team.objects.filter(pk=team_id).first() if team_id < 1 << 62 else None
    if found is None:
        raise NotFound
    policy.require(user, Action.TEAM_SEE, found)
    return found
