"""A machine's time: its dialog, and for admins the rules."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import policy
from accounts.access import SignedInRequest, admin_only, signed_in
from accounts.errors import DomainError, Invalid, NotFound
from accounts.forms import add_error
from accounts.fragments import done, render_page
from accounts.policy import Action
from vms import idle, lease_rules, leases, presentation, queries
from vms.forms import IdleForm, LeaseRuleForm, SiteLeaseForm, end_of_day
from vms.lease_rules import Rulebook
from vms.models import LeaseRule, MachineRules
from vms.views.machine import first_of

_WRONG_INPUT = 422


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """When it ends, one click more, another day, or more time than the rules give."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    terms = Rulebook.read().terms_of(vm)
    free = policy.can(request.user, Action.SITE_ADMIN)
    latest = terms.latest(vm.created_at)
    today = timezone.localdate()
    context = {
        "vm": vm,
        "lease": presentation.lease(vm),
        "today": today,
        "latest": latest,
        "most": None if free or latest is None else max(timezone.localdate(latest), today),
        "may_drop": vm.ends_at is not None and (free or latest is None),
        "may_choose": free or latest is None or latest > timezone.now(),
    }
    return render_page(request, "vms/time.html", context)


@signed_in
@require_POST
def act(request: SignedInRequest, uuid: UUID, word: str) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    try:
        match word:
            case "extend":
                row = leases.extend(vm, actor=request.user, until=_moment(request))
            case "end":
                latest = Rulebook.read().terms_of(vm).latest(vm.created_at)
                row = leases.set_end(vm, actor=request.user, ends_at=_day(request, latest))
            case "forever":
                row = leases.set_end(vm, actor=request.user, ends_at=None)
            case "keep":
                idle.keep(vm, actor=request.user)
                return done(request, _("Kept."), changed=f"vm:{vm.uuid} vm")
            case "ask":
                asked = leases.ask_longer(
                    vm,
                    actor=request.user,
                    until=_day(request),
                    reason=request.POST.get("reason", ""),
                )
                text = _("The request was sent. You will be told when it is decided.")
                return done(request, text, goal=reverse("request_detail", args=[asked.pk]))
            case _:
                raise NotFound
    except Invalid as error:
        raise first_of(error) from error
    text = (
        _("%(name)s ends on %(day)s.") % {"name": vm.name, "day": _shown(row.ends_at)}
        if row.ends_at
        else _("%(name)s has no end.") % {"name": vm.name}
    )
    return done(request, text, changed=f"vm:{vm.uuid} vm")


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def rules(request: SignedInRequest) -> HttpResponse:
    """How long machines may last: the site's rule, and what teams and sizes override."""
    form = SiteLeaseForm(request.POST or None, initial=_site())
    if request.method == "POST" and form.is_valid():
        try:
            lease_rules.set_site(actor=request.user, **form.cleaned_data)
        except DomainError as error:
            add_error(form, error)
        else:
            return done(request, _("The rules were saved."), goal=reverse("lease_rules"))
    return _rules_page(request, site_form=form)


@admin_only
@require_POST
def idle_rule(request: SignedInRequest) -> HttpResponse:
    """When machines that nobody uses are told of, and stopped."""
    form = IdleForm(request.POST)
    if form.is_valid():
        try:
            idle.set_rule(actor=request.user, **form.cleaned_data)
        except DomainError as error:
            add_error(form, error)
        else:
            return done(request, _("The rules were saved."), goal=reverse("lease_rules"))
    return _rules_page(request, idle_form=form)


@admin_only
@require_POST
def override(request: SignedInRequest) -> HttpResponse:
    """Of one team or size; the button "clear" takes it away."""
    form = LeaseRuleForm(request.POST)
    if form.is_valid():
        team, flavor = form.team(), form.flavor()
        try:
            if request.POST.get("clear"):
                lease_rules.clear_rule(actor=request.user, team=team, flavor=flavor)
            else:
                lease_rules.set_rule(
                    actor=request.user,
                    team=team,
                    flavor=flavor,
                    default_days=form.cleaned_data["default_days"],
                    max_days=form.cleaned_data["max_days"],
                )
        except DomainError as error:
            add_error(form, error)
        else:
            return done(request, _("The rules were saved."), goal=reverse("lease_rules"))
    return _rules_page(request, form=form)


# --- inside --------------------------------------------------------------------------------------
def _rules_page(
    request: SignedInRequest,
    *,
    site_form: SiteLeaseForm | None = None,
    form: LeaseRuleForm | None = None,
    idle_form: IdleForm | None = None,
) -> HttpResponse:
    book = Rulebook.read()
    own = LeaseRule.objects.exclude(team=None, flavor=None).select_related("team", "flavor")
    site_form = site_form or SiteLeaseForm(initial=_site())
    context = {
        "site_form": site_form,
        "form": form or LeaseRuleForm(),
        "idle_form": idle_form or IdleForm(initial=_idle()),
        "rows": own.order_by("team__name", "flavor__position", "flavor__name"),
        "site": book.site,
    }
    wrong = any(one.errors for one in (site_form, form, idle_form) if one)
    status = _WRONG_INPUT if wrong else 200
    return render_page(request, "vms/lease_rules.html", context, status=status)


def _site() -> dict[str, int | None]:
    site = Rulebook.read().site
    return {
        "default_days": site.default_days,
        "max_days": site.max_days,
        "bin_days": MachineRules.current().lease_bin_days,
    }


def _idle() -> dict[str, int]:
    rules = MachineRules.current()
    return {"idle_days": rules.idle_days, "idle_stop_days": rules.idle_stop_days}


def _moment(request: SignedInRequest) -> datetime | None:
    """What the button said, so that a second click gives no more than the first."""
    try:
        moment = parse_datetime(request.POST.get("until", ""))
    except ValueError:
        return None
    return moment if moment and timezone.is_aware(moment) else None


def _day(request: SignedInRequest, latest: datetime | None = None) -> datetime:
    """The end of the day that was typed; ``latest`` where it is that day's."""
    try:
        day = parse_date(request.POST.get("day", ""))
    except ValueError:
        day = None
    moment = end_of_day(day, latest)
    if moment is None:
        raise Invalid("lease.bad_end", fields={"day": "lease.bad_end"})
    return moment


def _shown(moment: datetime) -> str:
    return date_format(timezone.localtime(moment), "DATETIME_FORMAT")
