"""What quota needs of the clock: samples of use, warnings, ends, escalations. Run by beat."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from django.db.models import Sum
from django.utils import timezone

from accounts import grants, requests
from accounts.models import Allocation, QuotaRequest, UsageSample, User

KEPT = timedelta(days=400)


def run() -> None:
    sample_usage()
    grants.warn_of_ends()
    grants.tell_of_ended()
    escalate()


def sample_usage() -> None:
    """Raise today's peaks to what is used now. Three queries and one write, however many teams."""
    today = timezone.now().date()
    known = {
        (row.team_id, row.user_id, row.resource): row
        for row in UsageSample.objects.filter(day=today)
    }
    new, higher = [], []
    for team, user, resource, used in _in_use():
        row = known.get((team, user, resource))
        if row is None:
            new.append(
                UsageSample(team_id=team, user_id=user, resource=resource, day=today, peak=used)
            )
        elif used > row.peak:
            row.peak = used
            higher.append(row)
    UsageSample.objects.bulk_create(new, ignore_conflicts=True)
    UsageSample.objects.bulk_update(higher, ["peak"])
    UsageSample.objects.filter(day__lt=today - KEPT).delete()


def peaks(
    team_id: int, user_id: int | None, resource: str, *, days: int
) -> list[tuple[date, int | None]]:
    """The last ``days`` days, today last; None: nobody looked on that day."""
    today = timezone.now().date()
    since = today - timedelta(days=days - 1)
    noted = dict(
        UsageSample.objects.filter(
            team=team_id, user=user_id, resource=resource, day__gte=since
        ).values_list("day", "peak")
    )
    looked = set(
        UsageSample.objects.filter(day__gte=since).values_list("day", flat=True).distinct()
    )
    all_days = [since + timedelta(days=n) for n in range(days)]
    return [(day, noted.get(day, 0 if day in looked else None)) for day in all_days]


def escalate() -> None:
    """Requests that nobody has decided in time go to another admin, where the rule says so."""
    rules = requests.rule()
    if not rules.escalate_hours:
        return
    before = timezone.now() - timedelta(hours=rules.escalate_hours)
    waiting = QuotaRequest.objects.filter(
        state=QuotaRequest.State.OPEN, escalated_at__isnull=True, created_at__lte=before
    )
    for request in waiting.select_related("team", "requester"):
        requests.escalate(request, _other_admins(request, rules.escalate_to))


def _other_admins(request: QuotaRequest, chosen: User | None) -> list[User]:
    """The chosen one where they can decide it; else every admin that can."""
    admins = User.objects.filter(is_staff=True, is_active=True).exclude(pk=request.requester_id)
    if chosen is not None and admins.filter(pk=chosen.pk).exists():
        return [chosen]
    return list(admins.order_by("pk"))


def _in_use() -> Iterator[tuple[int, int | None, str, int]]:
    sums = Allocation.objects.order_by().values_list("team", "user", "resource")
    of_team: dict[tuple[int, str], int] = {}
    for team, user, resource, used in sums.annotate(total=Sum("amount")):
        of_team[team, resource] = of_team.get((team, resource), 0) + used
        yield team, user, resource, used
    for (team, resource), used in of_team.items():
        yield team, None, resource, used
