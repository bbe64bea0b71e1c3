"""What follows a person through the pages: the jobs tray and the jump dialog."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.template import Context
from django.views.decorators.http import require_safe

from accounts.access import SignedInRequest, signed_in
from accounts.models import User
from vms import presentation, queries
from vms.models import VM
from vms.queries import ListQuery
from vms.templatetags.frame import navigation, tray_context

_RESULTS = 8
_NEWEST = 5


@signed_in
@require_safe
def tray(request: SignedInRequest) -> HttpResponse:
    """The docked tray as a fragment: my jobs at work, and what ended just now."""
    response = render(request, "frame/tray.html", tray_context(request.user))
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_safe
def jump(request: SignedInRequest) -> HttpResponse:
    """Machines that match, and the pages whose name contains the words."""
    text = request.GET.get("q", "").strip()[:200]
    found = _machines(request.user, text)
    nav = navigation(Context({"request": request, "user": request.user}))
    pages = [page for page in [*nav.main, *nav.admin] if text.casefold() in page.label.casefold()]
    context = {
        "machines": presentation.machines(found, request.user),
        "pages": pages,
        "text": text,
    }
    return render(request, "frame/jump.html", context)


def _machines(user: User, text: str) -> list[VM]:
    """By name first, then what the list's own search finds; without words the newest."""
    seen = VM.objects.visible_to(user).in_use()
    if not text:
        return list(queries.with_related(seen.order_by("-created_at"))[:_NEWEST])
    named = list(queries.with_related(seen.filter(name__icontains=text))[:_RESULTS])
    if len(named) == _RESULTS:
        return named
    known = {vm.pk for vm in named}
    more = queries.page(user, ListQuery(q=text, page_size=_RESULTS)).vms
    return [*named, *(vm for vm in more if vm.pk not in known)][:_RESULTS]
