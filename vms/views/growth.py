"""What an action would take of the quota: a part of its dialog, asked anew as the form changes."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import SignedInRequest, signed_in
from vms import growth
from vms.growth import About

_DIGITS = 9


@signed_in
@require_safe
def show(request: SignedInRequest, uuid: UUID, action: str) -> HttpResponse:
    found = growth.of(uuid, action, actor=request.user, about=_about(request.GET))
    response = render(request, "vms/parts/growth.html", {"growth": found, "team": found.team})
    response["Cache-Control"] = "no-store"
    return response


def _about(typed: QueryDict) -> About:
    """Half-typed input counts as nothing."""

    def number(name: str) -> int:
        text = typed.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else 0

    return About(
        size_gib=number("size_gib"),
        vcpus=number("vcpus") or None,
        memory_mib=number("memory_mib") or None,
        disk=typed.get("disk", ""),
        snapshot=number("snapshot"),
        backup=number("backup"),
        machine=typed.get("machine", ""),
        into=number("into"),
        start=typed.get("start", "") in {"on", "1"},
    )
