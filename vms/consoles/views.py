"""The console's page. Its ticket comes from ``POST /api/v1/vms/{uuid}/console``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts import policy
from accounts.access import SignedInRequest, signed_in
from accounts.policy import Action
from vms import presentation, queries, screenshots
from vms.consoles import page, sharing

# Shown until a worker has taken the first picture: nothing, in a screen's shape.
NO_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 10"/>'


@signed_in
@require_safe
def vm_screen(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The last picture of its screen, for pages; has a newer one taken."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.CONSOLE_VIEW, vm)
    shot = screenshots.latest(vm)
    answer = HttpResponse(
        shot.content if shot else NO_PICTURE,
        content_type=shot.content_type if shot else "image/svg+xml",
    )
    answer["Cache-Control"] = "no-store"
    return answer


@signed_in
@require_safe
def vm_console(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    user = request.user
    vm = sharing.machine(user, uuid)
    machine = presentation.machine(vm, user)
    context: dict[str, Any] = {"vm": vm, "machine": machine}
    if request.GET.get("part") == "state":
        context["situation"] = page.situation(machine)
        return render(request, "console/console.html#state", context)
    return render(request, "console/page.html", context | page.context(machine, user))
