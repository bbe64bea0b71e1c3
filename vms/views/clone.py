"""The page that asks for a clone of a machine."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import messages, policy
from accounts import requests as quota_requests
from accounts.access import SignedInRequest, signed_in
from accounts.errors import DomainError, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.fragments import render_page
from accounts.models import Team, User
from accounts.policy import Action
from vms import commands, lifecycle, names, presentation, queries
from vms.cloning import requests
from vms.models import VM, Snapshot

TEMPLATE = "vms/clone.html"


class CloneForm(forms.Form):
    """Field names are those of ``cloning.requests.request_clone``."""

    name = forms.CharField(max_length=200)
    hostname = forms.CharField(max_length=200, required=False)
    copy = forms.ChoiceField(choices=VM.Copy.choices, required=False)
    snapshot = forms.ModelChoiceField(Snapshot.objects.none(), required=False)
    team = forms.ModelChoiceField(Team.objects.none(), required=False)
    start = forms.BooleanField(required=False)

    def __init__(self, *args: Any, vm: VM, person: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.vm = vm
        self.can_link = requests.can_link(vm)
        self.teams = requests.teams(person)
        self.snapshots = list(vm.snapshots.filter(state=Snapshot.State.READY))
        self.fields["snapshot"].queryset = vm.snapshots.filter(  # type: ignore[attr-defined]
            state=Snapshot.State.READY
        )
        self.fields["team"].queryset = Team.objects.filter(  # type: ignore[attr-defined]
            pk__in=[team.pk for team in self.teams]
        )

    def value(self, name: str) -> str:
        value = self[name].value()
        return "" if value is None else str(value)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """GET with what is typed so far and ``?part=aside``: what it would use, and the commands."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    if request.method != "POST":
        typed = request.GET if "name" in request.GET else None
        form = CloneForm(typed, vm=vm, person=request.user, initial=_initial(request, vm))
        return render_page(request, TEMPLATE, _context(request, form), parts={"aside"})
    form = CloneForm(request.POST, vm=vm, person=request.user)
    refused: DomainError | None = None
    if form.is_valid():
        try:
            made = _request(request, form)
        except (NotFound, Forbidden):
            raise
        except Invalid as error:
            for field, text in messages.field_texts(error).items():
                form.add_error(field if field in form.fields else None, text)
        except DomainError as error:
            refused = error
        else:
            return HttpResponseRedirect(reverse("vm_detail", args=[made.uuid]))
    context = _context(request, form, refused=refused)
    return render_page(request, TEMPLATE, context, status=refused.status if refused else 422)


def _request(request: SignedInRequest, form: CloneForm) -> VM:
    data = form.cleaned_data
    made, _job = requests.request_clone(
        form.vm,
        actor=request.user,
        name=data["name"],
        hostname=data["hostname"],
        copy=data["copy"] or VM.Copy.FULL,
        snapshot=data["snapshot"],
        team=data["team"],
        start=data["start"],
    )
    return made


def _initial(request: SignedInRequest, vm: VM) -> dict[str, Any]:
    return {
        "name": names.suggest(request.user, base=vm.name[:50]),
        "copy": VM.Copy.LINKED if requests.can_link(vm) else VM.Copy.FULL,
        "team": requests.default_team(vm, request.user).pk,
        "snapshot": request.GET.get("snapshot", ""),
        "start": True,
    }


def _context(
    request: SignedInRequest, form: CloneForm, *, refused: DomainError | None = None
) -> dict[str, Any]:
    vm = form.vm
    chosen = next((team for team in form.teams if str(team.pk) == form.value("team")), None)
    team = chosen or requests.default_team(vm, request.user)
    start = form["start"].value() not in (None, False, "")
    impacts = requests.impact(vm, request.user, team, start=start)
    code = requests.why_not(vm, lifecycle.active_job(vm))
    return {
        "form": form,
        "vm": vm,
        "machine": presentation.machine(vm, request.user),
        "team": team,
        "start": start,
        "why_not": messages.text(code, {"name": vm.name, "host": str(vm.host or "")})
        if code
        else "",
        "impacts": impacts,
        "missing": any(impact.missing for impact in impacts),
        "more": quota_requests.prefilled_for(team, impacts, asker=request.user, owner=request.user),
        "refused": messages.text(refused.code, refused.params) if refused else "",
        "refused_by_quota": isinstance(refused, QuotaExceeded),
        "commands": commands.show_clone(
            vm,
            name=form.value("name") or _("name"),
            copy=form.value("copy"),
            hostname=form.value("hostname"),
            start=start,
        ),
    }
