"""What works behind the pages on one machine: ``python -m kvmweb.background``.

The workers of both queues, beat and the watcher, forked from one process that has loaded Django,
Celery and libvirt's binding for all of them: each alone, they hold half as much again
(``benchmarks/memory.py``). What ends is started again. ``scripts/up`` runs this; where processes
have containers of their own, each is started by its own command (``docker-compose.yml``).
"""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkProcess

import django

from jobs.subprocesses import end_with_parent

logger = logging.getLogger(__name__)

PROCESSES_OF_A_QUEUE = 2
RESTART_AFTER_S = 1.0
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Run until SIGTERM or SIGINT; end with what was started."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
    django.setup()
    programs = _programs()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    running: dict[str, ForkProcess] = {}
    try:
        while True:
            for name, program in programs.items():
                if name not in running:
                    running[name] = _start(name, program)
            # Not their sentinels: what a killed worker leaves holds them open.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for name in [name for name, process in running.items() if not process.is_alive()]:
                code = running.pop(name).exitcode
                logger.error("%s ended with %s: starting it again", name, code)
            time.sleep(RESTART_AFTER_S)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _programs() -> dict[str, Callable[[], object]]:
    from celery.apps import beat, worker  # noqa: F401 - loaded here, for all of them
    from django.conf import settings
    from django.core.management import call_command

    import hosts.watch.supervisor  # noqa: F401
    from kvmweb import beat as clock
    from kvmweb.celery import app

    app.finalize()
    app.loader.import_default_modules()
    importlib.import_module("kombu.transport.redis")
    for module in settings.JOB_WORKER_LOADS:
        importlib.import_module(module)

    def work(queue: str) -> None:
        made = app.Worker(
            hostname=f"{queue}@{os.uname().nodename}",
            queues=[queue],
            concurrency=PROCESSES_OF_A_QUEUE,
            loglevel="INFO",
            without_gossip=True,
            without_mingle=True,
        )
        made.start()
        sys.exit(made.exitcode)

    def tell_the_time() -> None:
        clock.app.Beat(
            loglevel="WARNING", pidfile=None, schedule=settings.CELERY_BEAT_SCHEDULE_FILENAME
        ).run()

    return {
        "worker of quick jobs": partial(work, "quick"),
        "worker of bulk jobs": partial(work, "bulk"),
        "beat": tell_the_time,
        "watcher": partial(call_command, "watchhosts"),
    }


def _start(name: str, program: Callable[[], object]) -> ForkProcess:
    process = FORK.Process(target=_run, args=(program, os.getpid()), name=name)
    process.start()
    return process


def _run(program: Callable[[], object], parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    end_with_parent(parent, signal.SIGTERM)
    program()


if __name__ == "__main__":
    main()
