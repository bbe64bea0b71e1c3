"""Webhooks of a person and of a team: make one, try it, see what arrived."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts import messages, notifications, policy, teams, webhooks
from accounts.access import SignedInRequest, signed_in
from accounts.errors import DomainError
from accounts.forms import WebhookForm, add_error
from accounts.fragments import render_page
from accounts.models import Team, User, WebhookDelivery
from accounts.views.team_pages import find

_SHOWN = 20
_WRONG_INPUT = 422


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: SignedInRequest) -> HttpResponse:
    return _page(request, None)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def of_team(request: SignedInRequest, team_id: int) -> HttpResponse:
    team = find(request.user, team_id)
    policy.require(request.user, policy.Action.TEAM_MANAGE, team)
    return _page(request, team)


@signed_in
@require_POST
def try_it(request: SignedInRequest, webhook_id: int, team_id: int | None = None) -> HttpResponse:
    team = find(request.user, team_id) if team_id is not None else None
    webhooks.try_out(request.user, webhook_id, team=team)
    notices.success(request, _("A test is on its way. Look here in a minute."))
    return _back(team)


@signed_in
@require_POST
def remove(request: SignedInRequest, webhook_id: int, team_id: int | None = None) -> HttpResponse:
    team = find(request.user, team_id) if team_id is not None else None
    webhooks.remove(request.user, webhook_id, team=team)
    notices.success(request, _("The webhook was removed."))
    return _back(team)


def _page(request: SignedInRequest, team: Team | None) -> HttpResponse:
    """The answer to a new one shows its secret, and is never cached."""
    topics = notifications.topics() if team is None else notifications.team_topics()
    form = WebhookForm(request.POST or None, topics=topics)
    secret = ""
    if request.method == "POST" and form.is_valid():
        try:
            _made, secret = webhooks.add(request.user, team=team, **form.cleaned_data)
        except DomainError as error:
            add_error(form, error)
        else:
            form = WebhookForm(topics=topics)
    hooks = webhooks.of(request.user) if team is None else webhooks.of_team(team)
    managers = set(teams.managers(team).values_list("pk", flat=True)) if team else set()
    rows: list[dict[str, Any]] = [
        {
            "hook": hook,
            # It goes on for the team; whether its address is still the team's, they must say.
            "has_left": team is not None and not _may_set(hook.user, managers),
            "topics": [topics[topic] for topic in hook.topics if topic in topics],
            "deliveries": [_shown(hook.url, one) for one in hook.deliveries.all()[:_SHOWN]],
        }
        for hook in hooks
    ]
    context = {"form": form, "rows": rows, "secret": secret, "team": team}
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/webhooks.html", context, status=status)


def _may_set(user: User, managers: set[int]) -> bool:
    return user.is_active and (user.is_admin or user.pk in managers)


def _back(team: Team | None) -> HttpResponse:
    return redirect("team_webhooks", team.pk) if team else redirect("webhook_list")


def _shown(address: str, row: WebhookDelivery) -> dict[str, Any]:
    return {
        "row": row,
        "what": row.code or "test",
        "why": messages.text(row.error_code, {"host": address}) if row.error_code else "",
    }
