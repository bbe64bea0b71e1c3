"""The console's page. Its ticket comes from ``POST /api/v1/vms/{uuid}/console``."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import NotFound
from accounts.fragments import done
from accounts.models import User
from accounts.policy import Action
from vms import presentation, queries, screenshots
from vms.consoles import invites, page, people, recorder, recordings, sharing
from vms.models import VM, ConsoleInvite

# Shown until a worker has taken the first picture: nothing, in a screen's shape.
NO_PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 10"/>'


@signed_in
@require_safe
def vm_screen(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The last picture of its screen, for pages; has a newer one taken."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.CONSOLE_VIEW, vm)
    shot = screenshots.latest(vm, small=request.GET.get("size") == "small")
    content = shot.content if shot else NO_PICTURE
    answer = HttpResponse(content, content_type=shot.content_type if shot else "image/svg+xml")
    # Kept by the browser, asked for again each time: what has not changed costs a header.
    answer["Cache-Control"] = "private, no-cache"
    tag = quote_etag(hashlib.sha256(content).hexdigest()[:32])
    answer["ETag"] = tag
    return get_conditional_response(request, etag=tag, response=answer) or answer


@signed_in
@require_safe
def vm_console(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    user = request.user
    vm = sharing.machine(user, uuid)
    context: dict[str, Any] = {"vm": vm}
    match request.GET.get("part", ""):
        case "state":
            machine = presentation.machine(vm, user)
            context |= {"machine": machine, "situation": page.situation(machine)}
            context["may_see"] = policy.can(user, Action.SEE, vm)
            return render(request, "console/console.html#state", context)
        case "people":
            return render(request, "console/parts/people.html", context | _people(request, vm))
        case "people_list":
            return render(request, "console/parts/people_list.html", context | _people(request, vm))
        case "invite":
            return _invite_dialog(request, vm)
        case "recordings":
            rows = recordings.listed(vm, user)
            steward = sharing.state(vm, user).i_may.invite
            context |= {"recordings": rows, "may_delete": steward}
            return render(request, "console/parts/recordings.html", context)
    machine = presentation.machine(vm, user)
    context |= {"machine": machine, **page.context(machine, user)}
    return render(request, "console/page.html", context)


# --- sharing -------------------------------------------------------------------------------------


def _people(request: SignedInRequest, vm: VM) -> dict[str, Any]:
    return {"who": people.view(vm, request.user)}


@signed_in
@require_POST
def vm_console_control(request: SignedInRequest, uuid: UUID, word: str) -> HttpResponse:
    """``ask``, ``withdraw``, ``take``, ``give`` (to whom: ``to``) or ``release``."""
    user = request.user
    vm = sharing.machine(user, uuid)
    match word:
        case "ask":
            sharing.ask(vm, actor=user)
            text = _("You asked for control.")
        case "withdraw":
            sharing.withdraw(vm, actor=user)
            text = _("You do not ask any more.")
        case "take":
            sharing.take(vm, actor=user)
            text = _("You have control now.")
        case "release":
            sharing.release(vm, actor=user)
            text = _("You put control down.")
        case "give":
            to = _somebody_here(request, vm)
            sharing.give(vm, actor=user, to=to)
            text = _("%(name)s has control now.") % {"name": to.display_name()}
        case _:
            raise NotFound
    return done(request, text, changed=f"console:{vm.uuid}")


def _somebody_here(request: SignedInRequest, vm: VM) -> User:
    """Only people at this console are found: names of others are nobody's business here."""
    here = {str(person.user_id) for person in sharing.state(vm, request.user).people}
    wanted = request.POST.get("to", "")
    found = User.objects.filter(pk=wanted).first() if wanted in here else None
    if found is None:
        raise NotFound
    return found


def _invite_dialog(
    request: SignedInRequest, vm: VM, *, link: str = "", made: ConsoleInvite | None = None
) -> HttpResponse:
    context = {
        "vm": vm,
        "link": link,
        "made": made,
        "invites": sharing.list_invites(vm, actor=request.user),
        "hours": (
            (1, _("1 hour")),
            (4, _("4 hours")),
            (24, _("1 day")),
            (24 * 7, _("7 days")),
            (24 * 30, _("30 days")),
        ),
    }
    return render(request, "console/parts/invite.html", context)


@signed_in
@require_POST
def vm_console_invite(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """Make an invite; the dialog again, with the link that is told this once."""
    vm = sharing.machine(request.user, uuid)
    hours = request.POST.get("hours", "")
    row, token = sharing.invite(
        vm,
        actor=request.user,
        mode=request.POST.get("mode", "view"),
        once=request.POST.get("once") == "1",
        hours=int(hours) if hours.isascii() and hours.isdecimal() and len(hours) < 5 else 0,
    )
    link = request.build_absolute_uri(reverse("console_join", args=[token]))
    return _invite_dialog(request, vm, link=link, made=row)


@signed_in
@require_POST
def vm_console_revoke(request: SignedInRequest, uuid: UUID, invite_id: int) -> HttpResponse:
    vm = sharing.machine(request.user, uuid)
    sharing.require_steward(vm, request.user)
    row = ConsoleInvite.objects.select_related("vm").filter(vm=vm, pk=invite_id).first()
    if row is None:
        raise NotFound
    sharing.revoke_invite(row, actor=request.user)
    return _invite_dialog(request, vm)


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: SignedInRequest, token: str) -> HttpResponse:
    """What an invite leads to; its button takes it up."""
    if request.method == "POST":
        vm = sharing.join(token, actor=request.user)
        return redirect("vm_console", vm.uuid)
    return render(request, "console/join.html", {"invite": invites.by_token(token)})


# --- recordings ----------------------------------------------------------------------------------


@signed_in
@require_POST
def vm_console_record(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = sharing.machine(request.user, uuid)
    row = recordings.start(vm, request.POST.get("kind", ""), actor=request.user)
    transaction.on_commit(lambda: recorder.begin(row.pk))
    return done(request, _("This console is being recorded."), changed=f"console:{vm.uuid}")


@signed_in
@require_POST
def recording_act(request: SignedInRequest, recording_id: UUID, word: str) -> HttpResponse:
    """``stop`` or ``delete``."""
    row = recordings.one(request.user, recording_id)
    changed = f"console:{row.vm.uuid}"
    if word == "stop":
        recordings.ask_to_stop(row, actor=request.user)
        return done(request, _("The recording ends."), changed=changed)
    if word != "delete":
        raise NotFound
    recordings.delete(row, actor=request.user)
    return done(request, _("The recording is deleted."), changed=changed)


@signed_in
@require_safe
def recording(request: SignedInRequest, recording_id: UUID) -> HttpResponse:
    """Its player."""
    row = recordings.one(request.user, recording_id)
    api = f"{reverse('dashboard')}api/v1/recordings/{row.pk}"
    context = {
        "recording": row,
        "vm": row.vm,
        "player": {
            "kind": row.kind,
            "data": f"{api}/data",
            "entries": recordings.entries(row),
            "duration": row.duration_ms,
            "words": {
                "loading": _("Loading …"),
                "failed": _("The recording cannot be read. Reload the page and try again."),
                "empty": _("Nothing was recorded."),
                "play": _("Play"),
                "pause": _("Pause"),
            },
        },
    }
    return render(request, "console/player.html", context)
