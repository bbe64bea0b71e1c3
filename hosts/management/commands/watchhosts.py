"""``manage.py watchhosts``: keep what the site knows of its hosts true, until it is told to end."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from hosts.watch.supervisor import Supervisor


class Command(BaseCommand):
    # They import every page and the whole API: half of the memory of a process that has neither.
    requires_system_checks = ()
    help = (
        "Listens to the hosts' events and keeps the site's machines up to date. Runs until "
        "SIGTERM. Run one, or several that share the hosts among them (--host)."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--host",
            action="append",
            default=[],
            metavar="NAME",
            help="only this host; repeat for several. Without it: all hosts.",
        )

    def handle(self, **options: Any) -> None:
        supervisor = Supervisor(names=options["host"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        supervisor.run()
