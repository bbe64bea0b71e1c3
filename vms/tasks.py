"""Celery tasks of the machines' app. Jobs have theirs in ``jobs.tasks``."""

from uuid import UUID

from celery import shared_task

from vms import definition, idle, leases, recount, screenshots
from vms.consoles import recordings
from vms.guest import reading


@shared_task(name=screenshots.TASK, ignore_result=True)
def take_screenshot(uuid: str) -> None:
    screenshots.take(UUID(uuid))


@shared_task(name=reading.TASK, ignore_result=True)
def read_guest(uuid: str) -> None:
    reading.take(UUID(uuid))


@shared_task(name=definition.TASK, ignore_result=True)
def read_definition(uuid: str) -> None:
    definition.take(UUID(uuid))


@shared_task(name="vms.recount_quotas", ignore_result=True)
def recount_quotas() -> None:
    recount.run()
    recount.forget_old()


@shared_task(name="vms.tidy_recordings", ignore_result=True)
def tidy_recordings() -> None:
    recordings.tidy()


@shared_task(name="vms.lease_rounds", ignore_result=True)
def lease_rounds() -> None:
    """Warnings before machines end, their stop, and the recycle bin after it; machines that nobody
    uses; each minute."""
    leases.rounds()
    idle.rounds()
