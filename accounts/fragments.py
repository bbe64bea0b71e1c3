"""A page and its live fragments share one template: ``?part=x`` renders ``page.html#x``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.errors import NotFound

PART_PARAMETER = "part"


def render_page(
    request: HttpRequest,
    template: str,
    context: Mapping[str, Any] | None = None,
    *,
    parts: Collection[str] = (),
    status: int = 200,
) -> HttpResponse:
    """The whole page, or the one of ``parts`` that ``?part=`` names; others do not exist."""
    part = request.GET.get(PART_PARAMETER, "")
    if part:
        if part not in parts:
            raise NotFound
        template = f"{template}#{part}"
    response = render(request, template, dict(context or {}), status=status)
    # One address answers with a page and with its parts: a cache or the back button must not
    # give one for the other.
    response["Cache-Control"] = "no-store"
    return response


def done(
    request: HttpRequest,
    text: str,
    *,
    tone: str = "ok",
    link: str = "",
    link_text: str = "",
    changed: str = "",
    goal: str = "",
) -> HttpResponse:
    """The answer to a ``<form data-action>`` that was carried out.

    A toast with the next step (``link``), the live topics to fetch again at once (``changed``:
    ``"vm:<uuid> job"``), or another page (``goal``). Without the script the person is sent to
    ``goal``, or back to where they were, with the same text as a message.
    ``tone``: ok | work | warn | bad.
    """
    if not request.headers.get("HX-Request"):
        messages.add_message(request, _LEVELS.get(tone, messages.INFO), text)
        return HttpResponseRedirect(goal or _same_site_referer(request))
    response = HttpResponse(status=204)
    if goal:
        messages.add_message(request, _LEVELS.get(tone, messages.INFO), text)
        response["X-Location"] = goal
    else:
        detail = {"text": text, "tone": tone, "link": link, "linkText": link_text}
        response["X-Toast"] = quote(json.dumps(detail))
    if changed:
        response["X-Changed"] = changed
    return response


_LEVELS = {
    "ok": messages.SUCCESS,
    "work": messages.INFO,
    "warn": messages.WARNING,
    "bad": messages.ERROR,
}


def _same_site_referer(request: HttpRequest) -> str:
    referer = request.headers.get("Referer", "")
    if url_has_allowed_host_and_scheme(referer, {request.get_host()}, request.is_secure()):
        return referer
    return settings.FORCE_SCRIPT_NAME or "/"
