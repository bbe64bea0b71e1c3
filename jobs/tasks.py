"""The messages: ids only. A worker's child ends itself when it loses its lease."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
from typing import Any

from celery import shared_task
from celery.signals import worker_before_create_process, worker_process_init
from django.conf import settings
from redis.exceptions import RedisError

from accounts import pulse
from jobs import engine, reconcile
from jobs.subprocesses import end_with_parent


@worker_before_create_process.connect
def _child_is_made(**_kwargs: Any) -> None:
    """What is loaded by now stays shared with the children: a collection would touch each object
    and so copy its page into every process."""
    engine.worker_pid = os.getpid()
    for module in settings.JOB_WORKER_LOADS:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


@worker_process_init.connect
def _child_begins(**_kwargs: Any) -> None:
    engine.disposable = True
    # Idle children of a killed worker would wait for ever: each holds the others' pipes open.
    end_with_parent(engine.worker_pid, signal.SIGKILL)


@shared_task(name="jobs.run", ignore_result=True)
def run_job(job_id: str) -> None:
    engine.run(job_id)


@shared_task(name="jobs.reconcile", ignore_result=True)
def reconcile_all() -> None:
    # Beat sent it and a worker runs it: both live.
    with contextlib.suppress(RedisError):
        pulse.beat("worker")
        pulse.beat("beat")
    reconcile.run()
