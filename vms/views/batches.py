"""The page of machines that were asked for together."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from accounts import messages
from accounts.access import SignedInRequest, signed_in
from accounts.fragments import done, render_page
from vms import batches
from vms.provisioning import retry_failed
from vms.views import secrets


@signed_in
@require_safe
def show(request: SignedInRequest, batch: UUID) -> HttpResponse:
    row = batches.one(request.user, batch)
    context = {
        "batch": row,
        "view": batches.view(row, request.user),
        "secret": secrets.read(request, row),
    }
    response = render_page(request, "vms/batch.html", context, parts={"batch"})
    if context["secret"] and not request.GET.get("part"):
        secrets.forget(response, row)
    return response


@signed_in
@require_POST
def retry(request: SignedInRequest, batch: UUID) -> HttpResponse:
    """Those that failed once more."""
    result = retry_failed(batches.one(request.user, batch), actor=request.user)
    count = len(result.done)
    text = ngettext("%(n)d machine is tried again.", "%(n)d machines are tried again.", count)
    text %= {"n": count}
    if result.refused:
        vm, error = result.refused[0]
        why = messages.text(error.code, error.params)
        text = f"{text} " + _("%(name)s was not: %(why)s") % {"name": vm.name, "why": why}
    tone = "work" if count else "warn"
    return done(request, text, tone=tone, changed="vm job")
