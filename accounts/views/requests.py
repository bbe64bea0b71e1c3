"""Requests for more quota: asking, the queue, deciding; grants and taking them back."""

from __future__ import annotations

from django.contrib import messages as notices
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import grants, leases, messages, policy, quotas, requests, reviewing, services
from accounts.access import SignedInRequest, admin_only, signed_in
from accounts.errors import Conflict, DomainError, Invalid, NotFound
from accounts.forms import add_error
from accounts.fragments import render_page
from accounts.models import Membership, QuotaRequest, Resource, Team, User
from accounts.policy import Action
from accounts.request_forms import DecideForm, RequestForm, RuleForm, end_of, usual_end

_PAGE_SIZE = 30
_WRONG_INPUT = 422
_DIGITS = 15


@signed_in
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """What waits for this person's decision, the oldest first; their own; what was decided."""
    visible = QuotaRequest.objects.visible_to(request.user).select_related("team", "requester")
    waiting = visible.filter(
        pk__in=QuotaRequest.objects.decidable_by(request.user).values("pk"),
        state__in=QuotaRequest.UNDECIDED,
    ).order_by("state", "created_at")
    mine = visible.filter(requester=request.user)
    lists = {"waiting": waiting, "mine": mine, "all": visible}
    default = "waiting" if waiting.exists() else "mine"
    chosen = request.GET.get("show", default)
    chosen = chosen if chosen in lists else default
    page = Paginator(lists[chosen].prefetch_related("items"), _PAGE_SIZE).get_page(
        request.GET.get("page")
    )
    context = {
        "page": page,
        "rows": page.object_list,
        "show": chosen,
        "counts": {"waiting": waiting.count(), "mine": mine.count(), "all": visible.count()},
        "decides": request.user.is_admin
        or request.user.memberships.filter(role=Membership.Role.MANAGER)
        .exclude(team__kind=Team.Kind.PERSONAL)
        .exists(),
    }
    return render_page(request, "accounts/request_list.html", context)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: SignedInRequest) -> HttpResponse:
    """Filled in from where it was refused: ``?team=5&scope=team&vcpus=2``."""
    team = _team(request)
    form = RequestForm(
        request.POST or None,
        team=team,
        user=request.user,
        amounts=_wanted(request),
        initial={
            "scope": request.GET.get("scope", QuotaRequest.Scope.TEAM),
            "reason": request.GET.get("reason", "")[: requests.TEXT_MAX],
            "until": usual_end(),
        },
    )
    if request.method == "POST" and form.is_valid():
        try:
            made = requests.ask(
                actor=request.user,
                team=team,
                amounts=form.positive(),
                reason=form.cleaned_data["reason"],
                scope=form.cleaned_data["scope"],
                until=end_of(form.cleaned_data["until"]),
            )
        except DomainError as error:
            add_error(form, error)
        else:
            text = (
                _("Approved by the site's rule. You can use it now.")
                if made.state == QuotaRequest.State.APPROVED
                else _("The request was sent. You will be told when it is decided.")
            )
            notices.success(request, text)
            return redirect("request_detail", made.pk)
    status = _WRONG_INPUT if form.errors else 200
    context = {"form": form, "team": team, "teams": _teams(request.user)}
    return render_page(request, "accounts/request_new.html", context, status=status)


@signed_in
@require_safe
def detail(request: SignedInRequest, request_id: int) -> HttpResponse:
    return _page(request, requests.find(request.user, request_id))


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: SignedInRequest, request_id: int) -> HttpResponse:
    found = requests.find(request.user, request_id)
    policy.require(request.user, Action.REQUEST_EDIT, found)
    form = RequestForm(
        request.POST or None,
        team=found.team,
        user=request.user,
        amounts=requests.asked(found),
        about_time=found.machine is not None,
        initial={
            "scope": found.scope,
            "reason": found.reason,
            "until": timezone.localtime(found.until).date() if found.until else None,
        },
    )
    form.fields["scope"].required = False  # what it is for stays; amounts and words change
    if request.method == "POST" and form.is_valid():
        try:
            requests.edit(
                found,
                actor=request.user,
                amounts=form.positive(),
                reason=form.cleaned_data["reason"],
                until=end_of(form.cleaned_data["until"]),
            )
        except DomainError as error:
            add_error(form, error)
        else:
            notices.success(request, _("The request was changed."))
            return redirect("request_detail", found.pk)
    status = _WRONG_INPUT if form.errors else 200
    context = {"form": form, "team": found.team, "asked": found}
    return render_page(request, "accounts/request_new.html", context, status=status)


@signed_in
@require_POST
def comment(request: SignedInRequest, request_id: int) -> HttpResponse:
    found = requests.find(request.user, request_id)
    internal = request.POST.get("internal") == "on"
    requests.comment(
        found, actor=request.user, text=request.POST.get("text", ""), internal=internal
    )
    return redirect("request_detail", found.pk)


@signed_in
@require_POST
def withdraw(request: SignedInRequest, request_id: int) -> HttpResponse:
    found = requests.find(request.user, request_id)
    requests.withdraw(found, actor=request.user)
    notices.success(request, _("The request was withdrawn."))
    return redirect("request_detail", found.pk)


@signed_in
@require_POST
def decide(request: SignedInRequest, request_id: int) -> HttpResponse:
    """Approve with what stands in the rows, reject, or ask back: by the button."""
    found = requests.find(request.user, request_id)
    policy.require(request.user, Action.REQUEST_DECIDE, found)
    form = DecideForm(request.POST, request=found)
    if not form.is_valid():
        return _page(request, found, form=form)
    try:
        text = _carry_out(request, found, form)
    except Invalid as error:
        add_error(form, error)
        return _page(request, found, form=form)
    except Conflict as error:
        # Somebody was quicker, or it changed: the page shows what it is now.
        notices.error(request, messages.text(error.code, error.params))
        return redirect("request_detail", found.pk)
    notices.success(request, text)
    return redirect("request_detail", found.pk)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def grant(request: SignedInRequest, grant_id: int) -> HttpResponse:
    """One grant, and what taking it back would mean."""
    found = grants.find(request.user, grant_id)
    if request.method == "POST":
        grants.revoke(found, actor=request.user)
        notices.success(request, _("The grant was taken back."))
        return redirect("team_quota", found.team_id)
    context = {
        "grant": found,
        "after": grants.without(found),
        "may_revoke": grants.may_revoke(request.user, found),
        "is_live": grants.is_live(found),
        "request_seen": found.request
        if found.request and policy.can(request.user, Action.REQUEST_SEE, found.request)
        else None,
    }
    return render_page(request, "accounts/grant.html", context)


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def rules(request: SignedInRequest) -> HttpResponse:
    """What is approved and passed on by itself."""
    form = RuleForm(request.POST or None, rule=requests.rule())
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data
        try:
            requests.set_rule(
                actor=request.user,
                step=form.amounts(),
                quiet_days=chosen["quiet_days"],
                grant_days=chosen["grant_days"],
                escalate_hours=chosen["escalate_hours"],
                escalate_to=chosen["escalate_to"],
            )
        except DomainError as error:
            add_error(form, error)
        else:
            notices.success(request, _("The rules were saved."))
            return redirect("request_rules")
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/request_rules.html", {"form": form}, status=status)


# --- inside --------------------------------------------------------------------------------------
def _carry_out(request: SignedInRequest, found: QuotaRequest, form: DecideForm) -> str:
    data = form.cleaned_data
    words = {"text": data["text"], "internal": data["internal"]}
    match request.POST.get("decision"):
        case "approve":
            requests.approve(
                found,
                actor=request.user,
                version=data["version"],
                granted=form.granted(),
                ends_at=end_of(data["ends"]),
                **words,
            )
            return _("Approved. They can use it now.")
        case "reject":
            requests.reject(found, actor=request.user, version=data["version"], **words)
            return _("Rejected.")
        case "ask_back":
            requests.ask_back(found, actor=request.user, version=data["version"], text=data["text"])
            return _("Asked back. It waits for their answer.")
    raise NotFound


def _page(
    request: SignedInRequest, found: QuotaRequest, *, form: DecideForm | None = None
) -> HttpResponse:
    door = policy.door(request.user)
    decides = door.can(Action.REQUEST_DECIDE, found)
    undecided = found.is_undecided
    context = {
        "asked": found,
        "review": reviewing.of(found, detailed=decides),
        "events": reviewing.events(requests.history(found, request.user)),
        "grants": list(found.grants.all()),
        "time": leases.keeper().time_of(found.machine) if found.machine else None,
        "decides": decides and undecided,
        "sees_internal": decides,
        "mine": door.can(Action.REQUEST_EDIT, found) and undecided,
        "form": (form or DecideForm(request=found)) if decides and undecided else None,
    }
    status = _WRONG_INPUT if form is not None else 200
    return render_page(request, "accounts/request_detail.html", context, status=status)


def _teams(user: User) -> list[Team]:
    """Those for which the person may ask."""
    able = user.memberships.exclude(role=Membership.Role.VIEWER)
    return list(Team.objects.filter(memberships__in=able).order_by("name"))


def _team(request: SignedInRequest) -> Team:
    wanted = request.POST.get("team") or request.GET.get("team", "")
    if not wanted:
        return services.complete_new_user(request.user)
    if not wanted.isascii() or not wanted.isdecimal() or len(wanted) > _DIGITS:
        raise NotFound
    found = Team.objects.filter(pk=int(wanted)).first()
    if found is None:
        raise NotFound
    policy.require(request.user, Action.TEAM_CREATE_VM, found)
    return found


def _wanted(request: SignedInRequest) -> dict[Resource, int]:
    """The amounts in the address; what is no number is left out."""
    found = {}
    for resource in Resource:
        text = request.GET.get(resource.value, "")
        if text.isascii() and text.isdecimal() and 0 < len(text) <= _DIGITS:
            found[resource] = min(int(text), quotas.LARGEST)
    return {resource: amount for resource, amount in found.items() if amount}
