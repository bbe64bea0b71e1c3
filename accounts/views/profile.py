"""A person's own page: name, language, theme, SSH keys, API tokens, teams, quota."""

from __future__ import annotations

from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django import forms
from django.contrib import messages as notices
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import notifications, quotas, services, sign_ins, tokens
from accounts.access import SignedInRequest, signed_in
from accounts.errors import DomainError
from accounts.forms import NameForm, PreferencesForm, SSHKeyForm, TokenForm, add_error
from accounts.fragments import render_page
from accounts.models import Membership, SSHKey, User

_WRONG_INPUT = 422


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    return _page(request)


@signed_in
@require_POST
def change_name(request: SignedInRequest) -> HttpResponse:
    form = NameForm(request.POST)
    if not form.is_valid():
        return _page(request, name_form=form)
    services.set_name(user=request.user, **form.cleaned_data)
    notices.success(request, _("Your name was changed."))
    return redirect("profile")


@signed_in
@require_POST
def change_preferences(request: SignedInRequest) -> HttpResponse:
    form = PreferencesForm(request.POST)
    if not form.is_valid():
        return _page(request, preferences_form=form)
    services.set_preferences(user=request.user, **form.cleaned_data)
    return redirect("profile")


@signed_in
@require_POST
def add_key(request: SignedInRequest) -> HttpResponse:
    form = SSHKeyForm(request.POST)
    if form.is_valid():
        try:
            key = services.add_ssh_key(request.user, **form.cleaned_data)
        except DomainError as exc:
            add_error(form, exc)
        else:
            notices.success(request, _("The key “%(name)s” was added.") % {"name": key.name})
            return redirect("profile")
    return _page(request, key_form=form)


@signed_in
@require_POST
def remove_key(request: SignedInRequest, key_id: int) -> HttpResponse:
    services.remove_ssh_key(request.user, key_id)
    notices.success(request, _("The key was removed. Machines that have it keep it."))
    return redirect("profile")


@signed_in
@require_POST
def add_token(request: SignedInRequest) -> HttpResponse:
    """The answer shows the secret; a reload asks for another token, so it is never cached."""
    form = TokenForm(request.POST, user=request.user)
    if form.is_valid():
        chosen = form.cleaned_data
        try:
            token, secret = tokens.issue(
                request.user, chosen["name"], chosen["scopes"], form.expires_at()
            )
        except DomainError as exc:
            add_error(form, exc)
        else:
            return _page(request, issued=token, issued_secret=secret)
    return _page(request, token_form=form)


@signed_in
@require_POST
def revoke_token(request: SignedInRequest, token_id: int) -> HttpResponse:
    tokens.revoke(request.user, token_id)
    notices.success(request, _("The token was revoked. It no longer works."))
    return redirect("profile")


@signed_in
@require_POST
def end_session(request: SignedInRequest, sign_in_id: int) -> HttpResponse:
    sign_ins.end(request.user, sign_in_id)
    notices.success(request, _("That browser is signed out."))
    return redirect("profile")


@signed_in
@require_POST
def end_other_sessions(request: SignedInRequest) -> HttpResponse:
    sign_ins.end_others(request.user, session_key=request.session.session_key or "")
    notices.success(request, _("All other browsers are signed out."))
    return redirect("profile")


def _page(request: SignedInRequest, **changes: Any) -> HttpResponse:
    user = request.user
    team = services.complete_new_user(user)
    context = {
        "name_form": NameForm(initial={"first_name": user.first_name, "last_name": user.last_name}),
        "preferences_form": PreferencesForm(
            initial={"language": user.language, "theme": user.theme}
        ),
        "key_form": SSHKeyForm(),
        "token_form": TokenForm(user=user),
        "ssh_keys": SSHKey.objects.filter(user=user),
        "tokens": tokens.live_tokens(user),
        "memberships": Membership.objects.filter(user=user)
        .select_related("team")
        .order_by("team__name"),
        "sign_ins": sign_ins.live(user, session_key=request.session.session_key or ""),
        "has_second_factor": is_mfa_enabled(user),
        "notice_topics": _notice_topics(user),
        "mail_choices": notifications.Mail.choices,
        "mail_is_set_up": notifications.mail_is_set_up(),
        "quota_team": team,
        "quota": quotas.overview(team, user),
    } | changes
    refused = any(isinstance(value, forms.Form) for value in changes.values())
    return render_page(
        request, "accounts/profile.html", context, status=_WRONG_INPUT if refused else 200
    )


def _notice_topics(user: User) -> list[dict[str, str]]:
    chosen = notifications.choices(user)
    return [
        {"topic": topic, "label": label, "mail": chosen[topic].value}
        for topic, label in notifications.topics().items()
    ]
