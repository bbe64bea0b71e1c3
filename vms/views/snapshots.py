"""The snapshots of a machine: the dialogs on its page, and what they send."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done
from vms import commands, presentation, queries
from vms.snapshots import presentation as views
from vms.snapshots import requests
from vms.views.machine import first_of

DIALOGS = ("take", "revert", "delete")


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """``?for=take``, or ``revert`` and ``delete`` of ``?snapshot=``."""
    word = request.GET.get("for", "take")
    if word not in DIALOGS:
        raise NotFound
    vm = queries.one(request.user, uuid)
    context = {"vm": vm, "machine": presentation.machine(vm, request.user), "word": word}
    shown = views.of(vm, request.user)
    if word == "take":
        context |= {
            "snapshots": shown,
            "commands": commands.show_snapshot(vm, "take", _("name"), memory=shown.runs),
            "suggestion": f"s{vm.snapshots.count() + 1}",
        }
    else:
        number = request.GET.get("snapshot", "")
        view = next((one for one in shown.tree if str(one.row.pk) == number), None)
        if view is None:
            raise NotFound("snapshot.not_found")
        context |= {
            "snapshot": view,
            "lost": views.what_is_lost(vm, view.row),
            "commands": commands.show_snapshot(vm, word, view.row.name),
        }
    response = render(request, "vms/snapshot_dialogs.html", context)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_POST
def take(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    try:
        requests.take(
            vm,
            actor=request.user,
            name=request.POST.get("name", "").strip()[:200],
            description=request.POST.get("description", ""),
            memory=bool(request.POST.get("memory")),
        )
    except Invalid as error:
        raise first_of(error) from error
    return _asked(request, vm.uuid, _("The snapshot is being taken."))


@signed_in
@require_POST
def act(request: SignedInRequest, uuid: UUID, snapshot_id: int, word: str) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    snapshot = requests.find(vm, snapshot_id)
    if word == "revert":
        requests.revert(snapshot, actor=request.user, start=bool(request.POST.get("start")))
        text = _("Going back to “%(name)s”.") % {"name": snapshot.name}
    elif word == "delete":
        requests.delete(snapshot, actor=request.user)
        text = _("“%(name)s” is being deleted.") % {"name": snapshot.name}
    else:
        raise NotFound
    return _asked(request, vm.uuid, text)


def _asked(request: SignedInRequest, uuid: UUID, text: str) -> HttpResponse:
    return done(request, text, tone="work", changed=f"vm:{uuid} vm job")
