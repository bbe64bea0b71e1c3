"""The first page: my machines, what I use of what I may use, what is happening now."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.views.decorators.http import require_safe

from accounts import quotas
from accounts.access import SignedInRequest, signed_in
from accounts.fragments import render_page
from accounts.models import Team, User
from accounts.quotas import Impact
from jobs.models import Job
from vms import presentation, queries
from vms.models import VM
from vms.presentation import TaskView
from vms.templatetags.frame import job_url

_RECENT = 6
_HAPPENING = 8
_TEAMS = 3


@dataclass(frozen=True, kw_only=True)
class TeamUse:
    team: Team
    impacts: list[Impact]


@dataclass(frozen=True, kw_only=True)
class Happening:
    job: Job
    task: TaskView
    url: str


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    user = request.user
    seen = VM.objects.visible_to(user).in_use()
    counts = queries.count_by_state(seen)
    recent = queries.with_related(seen.order_by("-created_at"))[:_RECENT]
    context = {
        "counts": counts,
        "recent": presentation.machines(recent, user),
        "happening": _happening(user, seen),
        "uses": _uses(user),
    }
    return render_page(request, "vms/dashboard.html", context, parts={"now"})


def _happening(user: User, seen: QuerySet[VM]) -> list[Happening]:
    jobs = Job.objects.filter(
        Q(actor=user) | Q(vm__in=seen.order_by()), state__in=Job.ACTIVE_STATES
    ).select_related("vm", "actor")
    return [
        Happening(job=job, task=presentation.task(job), url=job_url(job))
        for job in jobs.order_by("created_at")[:_HAPPENING]
    ]


def _uses(user: User) -> list[TeamUse]:
    """The person's own team first; a resource that nobody limits and nobody uses says nothing."""
    teams = Team.objects.filter(Q(personal_of=user) | Q(memberships__user=user)).distinct()
    mine_first = sorted(teams, key=lambda team: team.personal_of_id != user.pk)
    uses = [TeamUse(team=team, impacts=_worth_showing(team, user)) for team in mine_first[:_TEAMS]]
    return [
        use
        for use in uses
        if use.team.personal_of_id == user.pk or any(one.used for one in use.impacts)
    ]


def _worth_showing(team: Team, user: User) -> list[Impact]:
    return [one for one in quotas.overview(team, user) if not one.unlimited or one.used]
