"""``/healthz``: this process answers. ``/readyz``: what it needs is there. ``/metrics``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Aggregate, Count, Min, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from accounts import apiauth, policy, pulse
from accounts.access import public
from accounts.errors import Forbidden
from accounts.models import Allocation, User
from hosts.models import Host
from jobs.models import Job
from vms.models import VM, ConsoleSession

logger = logging.getLogger(__name__)

OK = "ok"
# Once applied, migrations stay so for the life of this process.
_migrated: dict[str, bool] = {}


@public
@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    return HttpResponse("ok\n", content_type="text/plain")


@public
@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """200 when everything that the settings ask for is there, else 503; each part in words."""
    checks = {"database": _database(), "migrations": _migrations()}
    checks |= _redis_and_processes()
    ready = all(state == OK for state in checks.values())
    return JsonResponse({"ready": ready, "checks": checks}, status=200 if ready else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        logger.exception("readyz: database")
        return "unreachable"
    return OK


def _migrations() -> str:
    if _migrated.get("done"):
        return OK
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return "unknown"
    if missing:
        return f"{len(missing)} not applied"
    _migrated["done"] = True
    return OK


def _redis_and_processes() -> dict[str, str]:
    wanted = [process for process in pulse.PROCESSES if process in settings.READY_REQUIRES]
    try:
        cache.set("readyz", 1, timeout=5)
        ages = pulse.ages_s()
    except RedisError as exc:
        logger.warning("readyz: Redis: %s", exc)
        return {"redis": "unreachable"} | dict.fromkeys(wanted, "unknown")
    return {"redis": OK} | {process: _alive(ages[process]) for process in wanted}


def _alive(age_s: float | None) -> str:
    if age_s is None:
        return "not heard yet"
    return OK if age_s <= pulse.FRESH_S else f"silent for {age_s:.0f} s"


@public
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus: an admin's token (``authorization`` in its scrape config) or session. Read
    from the database at the scrape, so any of the web processes gives the same answer."""
    identity = apiauth.identify(request)
    if identity is None:
        response = HttpResponse("an admin's API token is needed\n", status=401)
        response["WWW-Authenticate"] = 'Bearer realm="kvmweb"'
        return response
    if identity.token is not None and "admin" not in identity.token.scopes:
        raise Forbidden("api.scope_missing", scope="admin")
    policy.require(identity.user, policy.Action.SITE_ADMIN)
    registry = CollectorRegistry()
    registry.register(_Site())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Site(Collector):
    def collect(self) -> Iterator[Metric]:
        started = time.monotonic()
        machines = _by("observed", VM.objects.alive(), Count("pk"))
        yield _family("kvmweb_machines", "Machines by observed state", "state", machines)
        yield from _jobs()
        hosts = _by("reach", Host.objects.all(), Count("pk"))
        yield _family("kvmweb_hosts", "Hosts by reach", "reach", hosts)
        allocated = _by("resource", Allocation.objects.all(), Sum("amount"))
        yield _family(
            "kvmweb_allocated", "Allocated, in the unit of the resource", "resource", allocated
        )
        users = User.objects.filter(is_active=True).count()
        yield GaugeMetricFamily("kvmweb_users", "Active users", users)
        consoles = ConsoleSession.objects.filter(ConsoleSession.STATES_OPEN).count()
        yield GaugeMetricFamily("kvmweb_consoles_open", "Open console connections", consoles)
        yield _pulses()
        took_s = time.monotonic() - started
        yield GaugeMetricFamily("kvmweb_scrape_seconds", "Time this answer took", took_s)


def _jobs() -> Iterator[Metric]:
    states = _by("state", Job.objects.all(), Count("pk"))
    yield _family("kvmweb_jobs", "Jobs by state", "state", states)
    oldest = Job.objects.filter(state=Job.State.QUEUED).aggregate(at=Min("created_at"))["at"]
    waiting_s = (timezone.now() - oldest).total_seconds() if oldest else 0.0
    yield GaugeMetricFamily(
        "kvmweb_jobs_oldest_queued_seconds", "How long the oldest queued job waits", waiting_s
    )


def _pulses() -> Metric:
    try:
        ages = pulse.ages_s()
    except RedisError:
        ages = {}
    heard = {process: age_s for process, age_s in ages.items() if age_s is not None}
    return _family(
        "kvmweb_heartbeat_age_seconds", "Since a process was last heard", "process", heard
    )


def _by(name: str, rows: QuerySet[Any, Any], amount: Aggregate) -> dict[str, float]:
    """What ``amount`` is for each value of a column; the column's choices appear with 0 too."""
    choices = rows.model._meta.get_field(name).choices or []
    found = rows.order_by().values(name).annotate(n=amount).values_list(name, "n")
    return dict.fromkeys((str(value) for value, _label in choices), 0.0) | {
        str(value): float(total) for value, total in found
    }


def _family(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family
