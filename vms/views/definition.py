"""A machine as its host and virsh know it: its XML, and the commands that its actions equal."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from accounts.access import SignedInRequest, signed_in
from accounts.fragments import render_page
from vms import command_list, commands, definition, queries

SHOWS = ("stored", "live", "differences")


@signed_in
@require_safe
def show(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    found = definition.of(vm, request.user)
    definition.ask(vm)
    compares = found.live is not None
    wanted = request.GET.get("show", "stored")
    wanted = wanted if compares and wanted in SHOWS else "stored"
    labels = {"stored": _("Stored"), "live": _("Live"), "differences": _("Differences")}
    text = {
        "stored": found.stored,
        "live": found.live or "",
        "differences": "\n".join(found.differences or ()),
    }[wanted]
    context = {
        "vm": vm,
        "found": found,
        "show": wanted,
        "shows": list(labels.items()) if compares else [],
        "text": text,
        "commands": commands.show_definition(vm, wanted),
    }
    return render_page(request, "vms/xml.html", context, parts={"xml"})


@signed_in
@require_safe
def show_commands(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    context = {"vm": vm, "listed": command_list.of(vm, request.user)}
    return render_page(request, "vms/commands.html", context)
