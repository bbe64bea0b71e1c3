"""Which of the backups that the clock made stay. A pure rule."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import date, datetime, timedelta

from django.utils import timezone


def to_keep(
    taken: Iterable[tuple[int, datetime]], *, last: int, daily: int = 0, weekly: int = 0
) -> set[int]:
    """Of ``(number, when)``: the ``last`` ones, and the newest of each of the ``daily`` newest days
    and of the ``weekly`` newest weeks that have any, by the site's clock. One may be all three."""
    newest_first = sorted(taken, key=lambda one: (one[1], one[0]), reverse=True)
    kept = {number for number, _at in newest_first[:last]}
    kept |= _newest_of_each(newest_first, _day, daily)
    return kept | _newest_of_each(newest_first, _monday, weekly)


def _newest_of_each(
    newest_first: list[tuple[int, datetime]], period: Callable[[datetime], Hashable], most: int
) -> set[int]:
    found: dict[Hashable, int] = {}
    for number, at in newest_first:
        found.setdefault(period(at), number)
    return set(list(found.values())[:most])


def _day(at: datetime) -> date:
    return timezone.localtime(at).date()


def _monday(at: datetime) -> date:
    day = _day(at)
    return day - timedelta(days=day.weekday())
