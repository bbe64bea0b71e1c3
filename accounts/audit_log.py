"""Reading the audit record: search, export, and how long it is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from datetime import timezone as tz
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_date

from accounts import audit, chain
from accounts.models import AuditEntry

COLUMNS = (
    "seq",
    "at",
    "actor",
    "verb",
    "target_type",
    "target_id",
    "target_name",
    "team_id",
    "address",
    "request_id",
    "job_id",
    "before",
    "after",
    "hash",
)
_CHUNK = 1000
_WORDS_MAX = 5
# A spreadsheet would take a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class AuditQuery:
    """What to look for; unknown or unreadable values are dropped."""

    q: str = ""  # words in who, verb, object, address, request or job
    who: str = ""
    verb: str = ""
    since: date | None = None
    until: date | None = None  # that day included

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> AuditQuery:
        return cls(
            q=params.get("q", "").strip()[:200],
            who=params.get("who", "").strip()[:150],
            verb=params.get("verb", "").strip()[:48],
            since=_day(params.get("since", "")),
            until=_day(params.get("until", "")),
        )

    def rows(self) -> QuerySet[AuditEntry, AuditEntry]:
        """The newest first."""
        rows = AuditEntry.objects.order_by("-id")
        if self.who:
            rows = rows.filter(actor_name=self.who)
        if self.verb:
            rows = rows.filter(Q(verb=self.verb) | Q(verb__startswith=f"{self.verb}."))
        if self.since:
            rows = rows.filter(at__gte=_midnight(self.since))
        if self.until:
            rows = rows.filter(at__lt=_midnight(self.until + timedelta(days=1)))
        for word in self.q.split()[:_WORDS_MAX]:
            rows = rows.filter(
                Q(target_name__icontains=word)
                | Q(target_id=word)
                | Q(actor_name__icontains=word)
                | Q(verb__icontains=word)
                | Q(address=word)
                | Q(request_id=word)
                | Q(job_id=word)
            )
        return rows

    def described(self) -> dict[str, str]:
        """For the entry that says who exported what."""
        wanted = {"q": self.q, "who": self.who, "verb": self.verb}
        wanted |= {"since": str(self.since or ""), "until": str(self.until or "")}
        return {name: value for name, value in wanted.items() if value}


def verbs() -> list[str]:
    """Every verb that occurs."""
    return list(AuditEntry.objects.order_by("verb").values_list("verb", flat=True).distinct())


def as_dict(row: AuditEntry) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "at": row.at.astimezone(tz.utc).isoformat(),
        "actor": row.actor_name,
        "verb": row.verb,
        "target_type": row.target_type,
        "target_id": row.target_id,
        "target_name": row.target_name,
        "team_id": row.team_id_at,
        "address": row.address,
        "request_id": row.request_id,
        "job_id": row.job_id,
        "before": row.before,
        "after": row.after,
        "hash": row.hash,
    }


def json_lines(rows: QuerySet[AuditEntry, AuditEntry]) -> Iterator[str]:
    """One object a line, oldest first, without holding them all."""
    for row in rows.order_by("id").iterator(chunk_size=_CHUNK):
        yield json.dumps(as_dict(row), ensure_ascii=False, sort_keys=True) + "\n"


def csv_lines(rows: QuerySet[AuditEntry, AuditEntry]) -> Iterator[str]:
    """With a head line, oldest first; ``before`` and ``after`` as JSON."""
    writer = csv.writer(_Line())
    yield writer.writerow(COLUMNS)
    for row in rows.order_by("id").iterator(chunk_size=_CHUNK):
        yield writer.writerow([_cell(value) for value in as_dict(row).values()])


def retire_old() -> int:
    """Drop what is older than ``KVMWEB_AUDIT_DAYS``; the rest stays verifiable."""
    if settings.AUDIT_DAYS <= 0:
        return 0
    before = timezone.now() - timedelta(days=settings.AUDIT_DAYS)
    return chain.retire(
        before,
        note=lambda count: audit.record(
            None, "audit.retire", after={"entries": count, "older_than": before}
        ),
    )


class _Line:
    """A file for ``csv.writer`` whose ``write`` hands the line back."""

    def write(self, line: str) -> str:
        return line


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _day(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:  # well formed, but no such day
        return None


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
