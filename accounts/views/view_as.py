"""Begin and end looking at the site as somebody else; ``kvmweb.view_as`` keeps it read-only."""

from __future__ import annotations

import time

from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from accounts import audit
from accounts.access import SignedInRequest, admin_only
from accounts.errors import Conflict, NotFound
from accounts.models import User

KEY = "kvmweb_view_as"  # in the session: whom, and since when


@admin_only
@require_POST
def begin(request: SignedInRequest, user_id: int) -> HttpResponse:
    person = User.objects.filter(pk=user_id).first()
    if person is None:
        raise NotFound
    if person.is_staff or not person.is_active:
        raise Conflict("view_as.not_them")
    request.session[KEY] = {"id": person.pk, "at": int(time.time())}
    audit.record(request.user, "user.view_as", person)
    return redirect("dashboard")


@admin_only
@require_POST
def end(request: SignedInRequest) -> HttpResponse:
    said = request.session.pop(KEY, None)
    person = User.objects.filter(pk=said["id"]).first() if said else None
    if person is None:
        return redirect("user_list")
    audit.record(request.user, "user.view_as_end", person)
    return redirect("user_detail", person.pk)
