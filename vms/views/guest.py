"""The tab Guest: its dialog, and what it sends."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from accounts import policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done
from accounts.policy import Action
from vms import commands, presentation, queries
from vms.guest import presentation as views
from vms.guest import reading, requests
from vms.views.machine import first_of


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """To set a password."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    context = {
        "vm": vm,
        "machine": presentation.machine(vm, request.user),
        "guest": views.of(vm, request.user),
        "commands": commands.show_guest(vm, "password", user=vm.first_user or "root"),
    }
    response = render(request, "vms/guest_dialogs.html", context)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_POST
@sensitive_post_parameters("password")
def act(request: SignedInRequest, uuid: UUID, word: str) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    match word:
        case "refresh":
            reading.refresh(vm, actor=request.user)
            text = _("Its agent is being asked.")
        case "trim":
            requests.trim(vm, actor=request.user)
            text = _("Its file systems are being trimmed.")
        case "password":
            try:
                requests.set_password(
                    vm,
                    actor=request.user,
                    user=request.POST.get("user", "").strip(),
                    password=request.POST.get("password", ""),
                )
            except Invalid as error:
                raise first_of(error) from error
            text = _("The password is being set.")
        case _:
            raise NotFound
    return done(request, text, tone="work", changed=f"vm:{vm.uuid} vm job")
