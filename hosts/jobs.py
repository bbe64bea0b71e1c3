"""Jobs on a host itself: reading it again, and finding out whether KVM works there."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from accounts.errors import NotFound
from hosts import services
from hosts.models import Host
from jobs import registry
from jobs.registry import JobKind, StepSpec

if TYPE_CHECKING:
    from jobs.context import JobContext
    from jobs.models import Job


def _host_id(context: JobContext) -> int:
    host_id = context.job.host_id
    if host_id is None:
        raise Host.DoesNotExist
    return host_id


def _read(context: JobContext) -> None:
    services.refresh_host(_host_id(context))


def _probe(context: JobContext) -> None:
    services.probe_host(_host_id(context))


def _wants_probe(context: JobContext) -> bool:
    return bool(context.params.get("probe"))


def _again(job: Job) -> Job:
    host = job.host
    if host is None:
        raise NotFound
    if job.kind == services.PROBE:
        return services.request_probe(host, actor=job.actor)
    return services.request_refresh(host, actor=job.actor, probe=bool(job.params.get("probe")))


def _use_folder(context: JobContext) -> None:
    services.use_backup_folder(_host_id(context), context.params["path"], context.actor)


READ = StepSpec(key="read", label=_("Reading the host"), do=_read, weight=1)


def register() -> None:
    registry.register(
        JobKind(
            kind=services.REFRESH,
            label=_("Read host"),
            verb="reading",
            steps=(
                READ,
                StepSpec(
                    key="probe",
                    label=_("Trying hardware acceleration with a probe machine"),
                    do=_probe,
                    optional=_wants_probe,
                    weight=4,
                ),
            ),
            deadline=timedelta(minutes=5),
            retry=_again,
        )
    )
    registry.register(
        JobKind(
            kind=services.BACKUP_FOLDER,
            label=_("Prepare a directory for backups"),
            verb="reading",
            steps=(StepSpec(key="folder", label=_("Making the pool"), do=_use_folder),),
            deadline=timedelta(minutes=5),
        )
    )
    registry.register(
        JobKind(
            kind=services.PROBE,
            label=_("Check acceleration"),
            verb="probing",
            steps=(
                READ,
                StepSpec(
                    key="probe",
                    label=_("Trying hardware acceleration with a probe machine"),
                    do=_probe,
                    weight=4,
                ),
            ),
            deadline=timedelta(minutes=5),
            retry=_again,
        )
    )
