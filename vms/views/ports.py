"""The published ports of a machine: the dialogs on its page, and what they send."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done
from accounts.policy import Action
from vms import commands, queries
from vms.ports import presentation, requests, rules


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """To publish one, or to close that of ``?port=``."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    shown = presentation.of(vm, request.user)
    if shown is None:
        raise NotFound("port.not_found")
    number = request.GET.get("port", "")
    if number:
        view = next((one for one in shown.ports if str(one.row.pk) == number), None)
        if view is None:
            raise NotFound("port.not_found")
        context = {"vm": vm, "port": view}
    else:
        context = {
            "vm": vm,
            "ports": shown,
            "public": rules.public_name(),
            "commands": commands.show_port(vm, 22),
        }
    response = render(request, "vms/port_dialogs.html", context)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_POST
def publish(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    typed = request.POST.get("guest_port", "").strip()
    if not (typed.isascii() and typed.isdigit() and len(typed) <= 5):
        policy.require(request.user, Action.EDIT, vm)
        raise Invalid("port.wrong", fields={"guest_port": "port.wrong"})
    port = requests.publish(
        vm, actor=request.user, guest_port=int(typed), note=request.POST.get("note", "")[:200]
    )
    text = _("Port %(port)s is published.") % {"port": port.guest_port}
    return _done(request, uuid, text)


@signed_in
@require_POST
def act(request: SignedInRequest, uuid: UUID, port_id: int, word: str) -> HttpResponse:
    port = requests.find(queries.one(request.user, uuid), port_id)
    if word == "close":
        requests.close(port, actor=request.user)
        text = _("Port %(port)s is closed.") % {"port": port.guest_port}
    elif word == "open":
        requests.reopen(port, actor=request.user)
        text = _("Port %(port)s is open again.") % {"port": port.guest_port}
    else:
        raise NotFound
    return _done(request, uuid, text)


def _done(request: SignedInRequest, uuid: UUID, text: str) -> HttpResponse:
    return done(request, text, changed=f"vm:{uuid} vm")
