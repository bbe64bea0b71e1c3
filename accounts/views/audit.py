"""The audit record for admins: search, filter, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from accounts import audit, audit_log, audit_words
from accounts.access import SignedInRequest, admin_only
from accounts.audit_log import AuditQuery
from accounts.fragments import render_page
from accounts.models import AuditEntry

_PAGE_SIZE = 100
_FORMATS = {
    "csv": ("text/csv; charset=utf-8", audit_log.csv_lines),
    "jsonl": ("application/x-ndjson", audit_log.json_lines),
}


@admin_only
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    """Pages go back by id: a page stays what it was while entries are added."""
    query = AuditQuery.from_params(request.GET)
    rows = query.rows()
    before = request.GET.get("before", "")
    if before.isdecimal() and len(before) < 19:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: _PAGE_SIZE + 1])
    shown = found[:_PAGE_SIZE]
    chosen = query.described()
    context = {
        "entries": [_shown(entry) for entry in shown],
        "query": query,
        "verbs": [(verb, audit_words.of(verb)) for verb in audit_log.verbs()],
        "chosen": chosen,
        "older": urlencode(chosen | {"before": shown[-1].pk}) if len(found) > _PAGE_SIZE else "",
        "newest": urlencode(chosen) if before else None,
    }
    return render_page(request, "accounts/audit.html", context, parts=("rows",))


@admin_only
@require_POST
def export(request: SignedInRequest, form: str) -> HttpResponseBase:
    """What was found, oldest first, as it is read from the database. The export is an entry."""
    if form not in _FORMATS:
        raise Http404
    content_type, lines = _FORMATS[form]
    query = AuditQuery.from_params(request.POST)
    audit.record(request.user, "audit.export", after=query.described() | {"format": form})
    answer = StreamingHttpResponse(_encoded(lines(query.rows())), content_type=content_type)
    name = f"audit-{timezone.now():%Y%m%d-%H%M}.{form}"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["Cache-Control"] = "no-store"
    return answer


def _encoded(lines: Iterator[str]) -> Iterator[bytes]:
    for line in lines:
        yield line.encode()


def _shown(entry: AuditEntry) -> dict[str, Any]:
    return {
        "entry": entry,
        "verb": audit_words.of(entry.verb),
        "before": _text(entry.before),
        "after": _text(entry.after),
    }


def _text(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1) if values else ""
