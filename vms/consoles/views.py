"""The console's page. Its ticket comes from ``POST /api/v1/vms/{uuid}/console``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from accounts import policy
from accounts.access import SignedInRequest, signed_in
from accounts.policy import Action
from vms import presentation, queries, screenshots

# X11 keysyms of the keys that a phone's keyboard lacks.
KEYS = (
    {"label": "Esc", "keysym": 0xFF1B, "code": "Escape"},
    {"label": "Tab", "keysym": 0xFF09, "code": "Tab"},
    {"label": "Ctrl", "keysym": 0xFFE3, "code": "ControlLeft", "sticky": True},
    {"label": "Alt", "keysym": 0xFFE9, "code": "AltLeft", "sticky": True},
    {"label": "↑", "keysym": 0xFF52, "code": "ArrowUp"},
    {"label": "↓", "keysym": 0xFF54, "code": "ArrowDown"},
    {"label": "←", "keysym": 0xFF51, "code": "ArrowLeft"},
    {"label": "→", "keysym": 0xFF53, "code": "ArrowRight"},
    {"label": "Del", "keysym": 0xFFFF, "code": "Delete"},
)


def _words() -> dict[str, str]:
    """What the page's script says."""
    return {
        "connecting": _("Connecting …"),
        "lost": _("The connection was lost. Connecting again …"),
        "network": _("The site does not answer. Trying again …"),
        "working": _("Something is being done with the machine. The screen follows by itself."),
        "stopped": _("The machine is stopped. It has no screen until it is started."),
        "crashed": _("The machine has crashed. Start it to see its screen again."),
        "unknown": _("The machine's host cannot be reached now, so there is no screen to show."),
        "starting": _("Starting …"),
        "signed_out": _("You signed out. Sign in again to see this screen."),
        "revoked": _("You may not see this screen any more. Ask the machine's owner."),
        "deleted": _("The machine was deleted."),
        "idle": _("Closed: nothing was typed or moved for a long time."),
        "limit": _("Closed: this console was open for very long."),
        "too_many": _("Too many consoles are open. Close another one, then reconnect."),
        "protocol": _("Closed: the browser sent something that is not understood."),
        "lacking": _("A US keyboard has no key for: %s"),
    }


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
    vm = queries.one(user, uuid)
    policy.require(user, Action.CONSOLE_VIEW, vm)
    machine = presentation.machine(vm, user)
    busy = machine.task is not None and not machine.task.observing
    context: dict[str, Any] = {"vm": vm, "machine": machine, "busy": busy}
    if request.GET.get("part") == "state":
        return render(request, "console/page.html#state", context)
    context |= {
        "keys": KEYS,
        "words": _words(),
        "live_path": reverse("dashboard") + "ws/live",
        "settings": {
            "ticketUrl": f"{reverse('dashboard')}api/v1/vms/{vm.uuid}/console",
            "startUrl": f"{reverse('dashboard')}api/v1/vms/{vm.uuid}/start",
            "mayStart": policy.can(user, Action.POWER, vm),
        },
    }
    return render(request, "console/page.html", context)
