"""The worker of ``queue_latency``: a bare task and a job kind that both say when they began.

``time.monotonic`` is one clock for all processes of a machine (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import time
from functools import cache

from celery import shared_task
from celery.signals import import_modules
from redis import Redis

from kvmweb.celery import app

CHANNEL = "bench:began"


@cache
def _client() -> Redis:
    from django.conf import settings

    return Redis.from_url(settings.REDIS_URL)


def say() -> None:
    _client().rpush(CHANNEL, repr(time.monotonic()))


@shared_task(name="bench.bare", ignore_result=True)
def bare() -> None:
    say()


def register() -> None:
    from jobs import registry
    from jobs.context import JobContext
    from jobs.registry import JobKind, StepSpec

    def first(_ctx: JobContext) -> None:
        say()

    step = StepSpec(key="first", label="First", do=first)
    registry.register(
        JobKind(kind="bench.first_step", label="Benchmark", verb="measuring", steps=(step,))
    )


@import_modules.connect(sender=app)
def _load(**_kwargs: object) -> None:
    register()
