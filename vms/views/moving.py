"""The dialog that moves a machine to another host."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import messages, policy
from accounts.access import SignedInRequest, signed_in
from accounts.fragments import done, render_page
from accounts.policy import Action
from vms import lifecycle, queries
from vms.models import VM
from vms.moving import places, presentation, requests
from vms.state import ON

TEMPLATE = "vms/move.html"


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """GET: what will happen, and the hosts. POST: begin."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.MOVE, vm)
    if request.method != "POST":
        return render_page(request, TEMPLATE, _context(vm))
    chosen = request.POST.get("host", "")
    host = requests.find_host(int(chosen) if chosen.isdecimal() and len(chosen) < 10 else 0)
    requests.request(vm, actor=request.user, host=host)
    text = _("%(name)s moves to %(host)s.") % {"name": vm.name, "host": host.name}
    return done(request, text, changed=f"vm:{vm.uuid} vm")


def _context(vm: VM) -> dict[str, object]:
    code = places.why_not(vm, lifecycle.active_job(vm))
    found = [(place, presentation.why_not(place)) for place in places.of(vm)]
    fitting = [place for place, why in found if not why]
    names = {"name": vm.name, "host": vm.host.name if vm.host else ""}
    return {
        "vm": vm,
        "live": vm.observed in ON,
        "copied_bytes": places.copied_bytes(vm),
        "places": found,
        "first": fitting[0].host.pk if fitting else None,
        "why_not": messages.text(code, names) if code else "",
        "can": bool(fitting) and not code,
        "commands": requests.show(vm, fitting[0].host if fitting else None),
    }
