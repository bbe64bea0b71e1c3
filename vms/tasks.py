"""Celery tasks of the machines' app. Jobs have theirs in ``jobs.tasks``."""

from uuid import UUID

from celery import shared_task

from vms import recount, screenshots
from vms.consoles import recordings


@shared_task(name=screenshots.TASK, ignore_result=True)
def take_screenshot(uuid: str) -> None:
    screenshots.take(UUID(uuid))


@shared_task(name="vms.recount_quotas", ignore_result=True)
def recount_quotas() -> None:
    recount.run()
    recount.forget_old()


@shared_task(name="vms.tidy_recordings", ignore_result=True)
def tidy_recordings() -> None:
    recordings.tidy()
