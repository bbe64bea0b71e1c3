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
from collections.abc import Callable, Collection, Mapping
from functools import partial
from multiprocessing.context import ForkProcess

import django

from jobs.subprocesses import end_with_parent

logger = logging.getLogger(__name__)

PROCESSES_OF_A_QUEUE = 2
RESTART_AFTER_S, RESTART_AFTER_MOST_S = 1.0, 30.0
SETTLED_S = 60.0  # what ran for so long did not fail at its start
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Run until SIGTERM or SIGINT; end with what was started."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
    django.setup()
    programs = _programs()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    keep_running(programs)


def keep_running(programs: Mapping[str, Callable[[], object]]) -> None:
    """Each in a process of its own, started again when it ends; until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    kept = [_Kept(name, program) for name, program in programs.items()]
    try:
        while True:
            for one in kept:
                one.start_when_due()
            if all(one.process is not None for one in kept):
                _wait_for_an_end({one.process.pid for one in kept if one.process is not None})
            else:
                time.sleep(RESTART_AFTER_S)
            for one in kept:
                one.look()
    finally:
        # Not those in ``kept``: the signal may have come while one was started.
        processes = FORK.active_children()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


class _Kept:
    """A program that is to run always."""

    def __init__(self, name: str, program: Callable[[], object]) -> None:
        self.name, self.program = name, program
        self.process: ForkProcess | None = None
        self._pause_s = 0.0
        self._changed_at = time.monotonic()  # started, or ended

    def start_when_due(self) -> None:
        if self.process is None and time.monotonic() >= self._changed_at + self._pause_s:
            self.process = _start(self.name, self.program)
            self._changed_at = time.monotonic()

    def look(self) -> None:
        if self.process is None or self.process.is_alive():
            return
        now = time.monotonic()
        self._pause_s = next_pause(self._pause_s, ran_s=now - self._changed_at)
        logger.error(
            "%s ended with %s: starting it again in %g s",
            *(self.name, self.process.exitcode, self._pause_s),
        )
        self.process, self._changed_at = None, now


def next_pause(pause_s: float, *, ran_s: float) -> float:
    """Before it is started again: what ends as soon as it is there gets ever longer ones."""
    if ran_s >= SETTLED_S:
        return RESTART_AFTER_S
    return min(max(RESTART_AFTER_S, 2 * pause_s), RESTART_AFTER_MOST_S)


def _wait_for_an_end(ours: Collection[int | None]) -> None:
    """Not by their sentinels: what a killed worker leaves holds them open. Where this is the first
    process of a container, others' orphans end here too."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_pid not in ours:
        os.waitpid(ended.si_pid, os.WNOHANG)


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

    programs: dict[str, Callable[[], object]] = {
        "worker of quick jobs": partial(work, "quick"),
        "worker of bulk jobs": partial(work, "bulk"),
        "beat": tell_the_time,
        "watcher": partial(call_command, "watchhosts"),
    }
    if settings.PUBLISH_PORTS:
        programs["publisher of ports"] = partial(call_command, "publishports")
    return programs


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
