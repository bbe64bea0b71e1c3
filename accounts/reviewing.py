"""What somebody who decides over a request should have in sight: each row with what holds, what
would hold after, what the hosts carry then; use over time; what was asked before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime

from accounts import carrying, limits, rounds
from accounts.models import QuotaRequest, QuotaRequestEvent, Resource
from accounts.quotas import UNLIMITED, amount_text, limit_text, resource_label, unit

DAYS = 30
EARLIER = 10


@dataclass(frozen=True, kw_only=True)
class Line:
    resource: Resource
    requested: int
    granted: int | None  # None: not decided
    used: int
    hard: int  # what holds now, without this request
    load: carrying.Load | None  # None: no host limits it
    peaks: list[tuple[date, int | None]] = field(default_factory=list)

    @property
    def label(self) -> str:
        return resource_label(self.resource)

    @property
    def unit(self) -> str:
        return unit(self.resource)

    @property
    def requested_text(self) -> str:
        return f"+{amount_text(self.resource, self.requested)}"

    @property
    def granted_text(self) -> str:
        if self.granted is None:
            return ""
        return f"+{amount_text(self.resource, self.granted)}"

    @property
    def used_text(self) -> str:
        return amount_text(self.resource, self.used)

    @property
    def hard_text(self) -> str:
        return limit_text(self.resource, self.hard)

    @property
    def after(self) -> int:
        return UNLIMITED if self.hard == UNLIMITED else self.hard + self.requested

    @property
    def after_text(self) -> str:
        return limit_text(self.resource, self.after)

    @property
    def capacity_text(self) -> str:
        return amount_text(self.resource, self.load.capacity) if self.load else ""

    @property
    def load_percent(self) -> int:
        return self.load.percent_with(self.requested) if self.load else 0

    @property
    def is_too_much(self) -> bool:
        return self.load is not None and self.load.is_too_much(self.requested)

    @property
    def noted(self) -> bool:
        return any(peak is not None for _day, peak in self.peaks)


@dataclass(frozen=True, kw_only=True)
class Review:
    lines: list[Line]
    earlier: list[QuotaRequest]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a request's history."""

    event: QuotaRequestEvent
    amounts: list[str]
    before: list[str]
    until: datetime | None
    people: list[str]


def of(request: QuotaRequest, *, detailed: bool) -> Review:
    """``detailed``: with what only those who decide are shown (hosts, use, earlier requests)."""
    person = request.requester if request.scope == QuotaRequest.Scope.MEMBER else None
    rows = {row.resource: row for row in limits.rows(request.team, person)}
    loads = carrying.now() if detailed else {}
    lines = [
        Line(
            resource=Resource(item.resource),
            requested=item.requested,
            granted=item.granted,
            used=rows[Resource(item.resource)].used,
            hard=rows[Resource(item.resource)].hard,
            load=loads.get(Resource(item.resource)),
            peaks=rounds.peaks(
                request.team_id, person.pk if person else None, item.resource, days=DAYS
            )
            if detailed
            else [],
        )
        for item in request.items.all()
    ]
    earlier = (
        QuotaRequest.objects.filter(requester=request.requester)
        .exclude(pk=request.pk)
        .select_related("team", "decided_by")
        .prefetch_related("items")[:EARLIER]
        if detailed
        else []
    )
    return Review(lines=lines, earlier=list(earlier))


def events(rows: QuerySet[QuotaRequestEvent, Any] | Iterable[QuotaRequestEvent]) -> list[Entry]:
    return [_entry(event) for event in rows]


def _entry(event: QuotaRequestEvent) -> Entry:
    facts = event.facts
    now = facts.get("after", facts)
    until = now.get("until")
    return Entry(
        event=event,
        amounts=_texts(now.get("amounts", {})),
        before=_texts(facts.get("before", {}).get("amounts", {})),
        until=parse_datetime(until) if until else None,
        people=list(facts.get("to", [])),
    )


def _texts(amounts: dict[str, int]) -> list[str]:
    return [
        f"{resource_label(resource)} +{amount_text(resource, amount)}"
        for resource in Resource.values
        if (amount := amounts.get(resource)) is not None
    ]
