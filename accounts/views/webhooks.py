"""A person's webhooks: make one, try it, see what arrived."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts import messages, notifications, webhooks
from accounts.access import SignedInRequest, signed_in
from accounts.errors import DomainError
from accounts.forms import WebhookForm, add_error
from accounts.fragments import render_page
from accounts.models import WebhookDelivery

_SHOWN = 20
_WRONG_INPUT = 422


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: SignedInRequest) -> HttpResponse:
    """The answer to a new one shows its secret, and is never cached."""
    form = WebhookForm(request.POST or None)
    secret = ""
    if request.method == "POST" and form.is_valid():
        try:
            _made, secret = webhooks.add(request.user, **form.cleaned_data)
        except DomainError as error:
            add_error(form, error)
        else:
            form = WebhookForm()
    topics = notifications.topics()
    rows: list[dict[str, Any]] = [
        {
            "hook": hook,
            "topics": [topics[topic] for topic in hook.topics if topic in topics],
            "deliveries": [
                _shown(one) for one in hook.deliveries.select_related("notification")[:_SHOWN]
            ],
        }
        for hook in webhooks.of(request.user)
    ]
    context = {"form": form, "rows": rows, "secret": secret}
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "accounts/webhooks.html", context, status=status)


@signed_in
@require_POST
def try_it(request: SignedInRequest, webhook_id: int) -> HttpResponse:
    webhooks.try_out(request.user, webhook_id)
    notices.success(request, _("A test is on its way. Look here in a minute."))
    return redirect("webhook_list")


@signed_in
@require_POST
def remove(request: SignedInRequest, webhook_id: int) -> HttpResponse:
    webhooks.remove(request.user, webhook_id)
    notices.success(request, _("The webhook was removed."))
    return redirect("webhook_list")


def _shown(row: WebhookDelivery) -> dict[str, Any]:
    return {
        "row": row,
        "what": row.notification.code if row.notification else "test",
        "why": messages.text(row.error_code, {"host": row.webhook.url}) if row.error_code else "",
    }
