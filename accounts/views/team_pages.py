"""The pages of a team: who is in it, who is invited, what it uses; joining and leaving."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import handovers, invites, notifications, policy, quotas, teams
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.forms import InviteForm, MemberForm, TeamNameForm, add_error
from accounts.fragments import done, render_page
from accounts.models import Membership, Team, User
from accounts.policy import Action

_PAGE_SIZE = 50
_WRONG_INPUT = 422


@signed_in
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """The person's teams, with what they are in each."""
    rows = (
        Membership.objects.filter(user=request.user)
        .select_related("team")
        .annotate(member_count=Count("team__memberships"))
        .order_by("team__name")
    )
    page = Paginator(rows, _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "rows": page.object_list, "may_create": teams.may_create(request.user)}
    return render_page(request, "accounts/my_teams.html", context)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def create(request: SignedInRequest) -> HttpResponse:
    form = TeamNameForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            team = teams.create_team(actor=request.user, name=form.cleaned_data["name"])
        except Invalid as exc:
            add_error(form, exc)
        else:
            return redirect("team_page", team.pk)
    status = _WRONG_INPUT if form.errors else 200
    context = {"form": form, "may_create": teams.may_create(request.user)}
    return render_page(request, "accounts/team_create.html", context, status=status)


@signed_in
@require_safe
def show(request: SignedInRequest, team_id: int) -> HttpResponse:
    """The page; ``?part=remove&user=`` is the dialog before somebody goes."""
    team = find(request.user, team_id)
    if request.GET.get("part") == "remove":
        return render_page(
            request, "accounts/team_page.html", _leaving(request, team), parts=("remove",)
        )
    return _page(request, team)


@signed_in
@require_POST
def rename(request: SignedInRequest, team_id: int) -> HttpResponse:
    team = find(request.user, team_id)
    form = TeamNameForm(request.POST)
    if form.is_valid():
        try:
            teams.rename_team(actor=request.user, team=team, name=form.cleaned_data["name"])
        except Invalid as exc:
            team.refresh_from_db()
            add_error(form, exc)
        else:
            return redirect("team_page", team.pk)
    return _page(request, team, name_form=form)


@signed_in
@require_POST
def set_member(request: SignedInRequest, team_id: int) -> HttpResponse:
    """Take somebody in, or change a role."""
    team = find(request.user, team_id)
    form = MemberForm(request.POST)
    if form.is_valid():
        try:
            teams.set_member(actor=request.user, team=team, **form.cleaned_data)
        except Invalid as exc:
            add_error(form, exc)
        else:
            return redirect("team_page", team_id)
    return _page(request, team, member_form=form)


@signed_in
@require_POST
def remove_member(request: SignedInRequest, team_id: int, user_id: int) -> HttpResponse:
    """Remove somebody, or leave. What they have in the team goes to ``heir``."""
    team = find(request.user, team_id)
    chosen = request.POST.get("heir", "")
    heir = User.objects.filter(username=chosen).first() if chosen else None
    if chosen and heir is None:
        raise Invalid("team.bad_heir", fields={"heir": "team.bad_heir"})
    moved = teams.remove_member(actor=request.user, team=team, user_id=user_id, heir=heir)
    left = user_id == request.user.pk
    text = (
        _("You have left the team “%(team)s”.") % {"team": team.name}
        if left
        else _("They are no longer in the team “%(team)s”.") % {"team": team.name}
    )
    if moved:
        text += " " + ngettext(
            "%(count)s machine was handed over.", "%(count)s machines were handed over.", moved
        ) % {"count": moved}
    still_seen = policy.can(request.user, Action.TEAM_SEE, team)
    goal = "team_page" if still_seen else "my_teams"
    answer = redirect(goal, team.pk) if still_seen else redirect(goal)
    return done(request, text, goal=answer["Location"])


@signed_in
@require_POST
def invite(request: SignedInRequest, team_id: int) -> HttpResponse:
    """The answer shows the link, once; one with an address is mailed instead."""
    team = find(request.user, team_id)
    form = InviteForm(request.POST)
    if not form.is_valid():
        return _page(request, team, invite_form=form)
    try:
        row, secret = invites.make(actor=request.user, team=team, **form.chosen())
    except Invalid as exc:
        add_error(form, exc)
        return _page(request, team, invite_form=form)
    address = invites.link(secret, base=f"{request.scheme}://{request.get_host()}")
    if not row.email:
        return _page(request, team, invite_link=address, invite_row=row)
    invites.send(row, address, actor=request.user)
    notices.success(request, _("The invitation was sent to %(email)s.") % {"email": row.email})
    return redirect("team_page", team_id)


@signed_in
@require_POST
def revoke_invite(request: SignedInRequest, team_id: int, invite_id: int) -> HttpResponse:
    team = find(request.user, team_id)
    invites.revoke(actor=request.user, team=team, invite_id=invite_id)
    notices.success(request, _("The invitation was revoked. Its link no longer works."))
    return redirect("team_page", team_id)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: SignedInRequest, secret: str) -> HttpResponse:
    """What the link of an invitation opens."""
    if request.method == "POST":
        row = invites.accept(user=request.user, secret=secret)
        notices.success(request, _("You are in the team “%(team)s” now.") % {"team": row.team.name})
        return redirect("team_page", row.team_id)
    found = invites.find(secret)
    member = found.team.memberships.filter(user=request.user).exists()
    context = {"invite": found, "team": found.team, "already": member}
    return render_page(request, "accounts/team_join.html", context)


def find(user: User, team_id: int) -> Team:
    team = Team.objects.filter(pk=team_id).first()
    policy.require(user, Action.TEAM_SEE, team)
    if team is None:  # an admin may see whatever is not there
        raise NotFound
    return team


def _leaving(request: SignedInRequest, team: Team) -> dict[str, Any]:
    wanted = request.GET.get("user", "")
    row = (
        team.memberships.select_related("user")
        .filter(user_id=int(wanted) if wanted.isdecimal() and len(wanted) < 19 else 0)
        .first()
    )
    if row is None:
        raise NotFound
    if row.user != request.user:
        policy.require(request.user, Action.TEAM_MANAGE, team)
    return {
        "team": team,
        "row": row,
        "is_me": row.user == request.user,
        "count": handovers.counts(team, [row.user_id])[row.user_id],
        "heirs": teams.possible_heirs(team, row.user),
    }


def _page(request: SignedInRequest, team: Team, **changes: Any) -> HttpResponse:
    may_manage = policy.can(request.user, Action.TEAM_MANAGE, team)
    fixed = team.kind == Team.Kind.PERSONAL
    rows = list(team.memberships.select_related("user").order_by("user__username"))
    counts = handovers.counts(team, [row.user_id for row in rows])
    mine = next((row for row in rows if row.user_id == request.user.pk), None)
    context = {
        "team": team,
        "mine": mine,
        "members": [(row, counts[row.user_id]) for row in rows],
        "roles": Membership.Role.choices,
        "may_manage": may_manage and not fixed,
        "fixed": fixed,
        "quota": quotas.overview(team, request.user),
        "member_form": MemberForm(),
        "invite_form": InviteForm(),
        "name_form": TeamNameForm(initial={"name": team.name}),
        "invites": invites.open_ones(team).select_related("created_by") if may_manage else [],
        "mail_is_set_up": notifications.mail_is_set_up(),
    } | changes
    status = _WRONG_INPUT if any(name.endswith("_form") for name in changes) else 200
    return render_page(request, "accounts/team_page.html", context, status=status)
