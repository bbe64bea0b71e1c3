"""What stands around every page: navigation, quota gauge, jobs tray. Database only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import template
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import messages, notifications, preferences, quotas
from accounts.models import Resource, User
from accounts.quotas import Impact
from jobs import registry
from jobs.models import Job
from vms import presentation
from vms.images import copies
from vms.presentation import TaskView
from vms.state import CREATIONS

register = template.Library()

# A job that ended this long ago is still named to the tray, so that no page misses its end.
JUST_FINISHED = timedelta(seconds=90)
_TRAY_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class NavItem:
    label: str
    url: str
    icon: str
    current: bool
    key: str  # what the keyboard's "g" goes to it with, or ""


@dataclass(frozen=True, kw_only=True)
class Navigation:
    main: list[NavItem]
    admin: list[NavItem]


@dataclass(frozen=True, kw_only=True)
class Gauge:
    text: str  # "5/8 vCPU"
    title: str
    shares: list[float]


@dataclass(frozen=True, kw_only=True)
class TrayJob:
    job: Job
    task: TaskView
    url: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    id: str
    text: str
    tone: str
    link: str
    link_text: str


@register.simple_tag(takes_context=True)
def theme(context: template.Context) -> str:
    request = context.get("request")
    return preferences.theme_of(request) if isinstance(request, HttpRequest) else "auto"


@register.simple_tag(takes_context=True)
def navigation(context: template.Context) -> Navigation:
    """The pages that exist and that this person may open."""
    request = context.get("request")
    path = request.path if isinstance(request, HttpRequest) else ""
    user = context.get("user")
    main = [
        ("dashboard", _("Overview"), "layout-dashboard", "o"),
        ("vm_list", _("Machines"), "monitor", "m"),
        ("image_list", _("Images"), "disc", "i"),
        ("template_list", _("Templates"), "layers", "t"),
        ("job_list", _("Activity"), "activity", "a"),
    ]
    admin = [
        ("host_list", _("Hosts"), "server", "h"),
        ("admin_image_list", _("Images"), "disc", ""),
        ("flavor_list", _("Sizes"), "layers", ""),
        ("lease_rules", _("Machines' time"), "hourglass", ""),
        ("user_list", _("People"), "users", "u"),
        ("request_list", _("Requests"), "inbox", "r"),
        ("audit", _("Audit record"), "scan-eye", ""),
    ]
    is_admin = isinstance(user, User) and user.is_admin
    return Navigation(main=_existing(main, path), admin=_existing(admin, path) if is_admin else [])


def _existing(items: list[tuple[str, str, str, str]], path: str) -> list[NavItem]:
    found = []
    for name, label, icon, key in items:
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue
        root = reverse("dashboard")
        current = path == url or (url != root and path.startswith(url))
        found.append(NavItem(label=label, url=url, icon=icon, current=current, key=key))
    return found


@register.simple_tag(takes_context=True)
def quota_gauge(context: template.Context) -> Gauge | None:
    """Three columns (vCPU, memory, disk) of the person's own team, and the fullest as text."""
    user = context.get("user")
    if not isinstance(user, User):
        return None
    team = getattr(user, "personal_team", None)
    if team is None:
        return None
    wanted = (Resource.VCPUS, Resource.MEMORY_MIB, Resource.DISK_GIB)
    impacts = quotas.preview(team, user, dict.fromkeys(wanted, 0))
    limited = [impact for impact in impacts if impact.hard > 0]
    if not limited:
        return None
    fullest = max(limited, key=lambda impact: impact.used / impact.hard)
    return Gauge(
        text=_gauge_text(fullest),
        title=" · ".join(
            _("%(resource)s: %(used)s of %(hard)s")
            % {"resource": one.label, "used": one.used_text, "hard": one.hard_text}
            for one in limited
        ),
        shares=[impact.used / impact.hard for impact in limited],
    )


def _gauge_text(impact: Impact) -> str:
    """``5/8 vCPU``, ``12/16 GiB``."""
    text = f"{impact.used_text.split(' ')[0]}/{impact.hard_text}"
    return f"{text} vCPU" if impact.resource == Resource.VCPUS else text


def tray_context(user: User) -> dict[str, Any]:
    """My jobs at work, and those that ended just now (their toasts)."""
    since = timezone.now() - JUST_FINISHED
    jobs = Job.objects.filter(actor=user).select_related("vm", "image").order_by("created_at")
    # In this order: one that ends between the two must not be in both, it would be told twice.
    ended = list(
        jobs.filter(state__in=Job.FINAL_STATES, finished_at__gte=since).exclude(
            kind=copies.KIND  # nobody asked for it: whose machine it is for is told of that
        )[:20]
    )
    at_work = list(jobs.filter(state__in=Job.ACTIVE_STATES)[:100])
    return {
        "tray_jobs": [_tray_job(job) for job in at_work[:_TRAY_LENGTH]],
        "tray_count": len(at_work),
        "tray_active": " ".join(str(job.id) for job in at_work),
        "tray_finished": [_finished(job) for job in ended],
    }


@register.inclusion_tag("frame/tray.html", takes_context=True)
def jobs_tray(context: template.Context) -> dict[str, Any]:
    user = context.get("user")
    return tray_context(user) if isinstance(user, User) else {}


@register.inclusion_tag("frame/bell.html", takes_context=True)
def bell(context: template.Context) -> dict[str, Any]:
    user = context.get("user")
    return {"unread": notifications.unread_count(user) if isinstance(user, User) else 0}


@register.simple_tag
def job_url(job: Job) -> str:
    """Where a job is followed: its machine's page while there is one, else its own."""
    if job.vm is not None and job.vm.deleted_at is None:
        return reverse("vm_detail", args=[job.vm.uuid])
    try:
        return reverse("job_detail", args=[job.id])
    except NoReverseMatch:
        return reverse("dashboard")


@register.filter
def verb_word(verb: str) -> str:
    """A verb as addresses spell it: ``force-off``."""
    return verb.replace("_", "-")


def _tray_job(job: Job) -> TrayJob:
    return TrayJob(job=job, task=presentation.task(job), url=job_url(job))


def _finished(job: Job) -> Finished:
    name = job.target_name
    link, link_text = job_url(job), _("Show details")
    if job.state == Job.State.FAILED:
        why = messages.text(job.error_code, job.error_params) if job.error_code else ""
        label = _label(job)
        text = _("%(what)s failed: %(name)s.") % {"what": label, "name": name}
        return Finished(
            id=str(job.id), text=f"{text} {why}".strip(), tone="bad", link=link, link_text=link_text
        )
    if job.state == Job.State.CANCELLED:
        text = _("%(what)s was cancelled: %(name)s.") % {"what": _label(job), "name": name}
        return Finished(id=str(job.id), text=text, tone="warn", link=link, link_text=link_text)
    text = _("Done: %(what)s, %(name)s.")
    if job.kind in CREATIONS:
        text, link_text = _("%(name)s is ready."), _("Open %(name)s") % {"name": name}
    return Finished(
        id=str(job.id),
        text=text % {"name": name, "what": _label(job)},
        tone="ok",
        link=link if job.kind != "vm.delete" else "",
        link_text=link_text,
    )


def _label(job: Job) -> str:
    kind = registry.all_kinds().get(job.kind)
    return str(kind.label) if kind else job.kind
