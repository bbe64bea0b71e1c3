"""``manage.py recount_quotas``: do the quotas say what is there?"""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from vms import recount


class Command(BaseCommand):
    help = (
        "Counts again what every machine takes, compares it with what it holds of its team's "
        "quota, and sets right what differs. Exits with 1 where anything differed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="report, change nothing")
        parser.add_argument(
            "--hosts", action="store_true", help="ask the hosts themselves too (changes nothing)"
        )

    def handle(self, *_args: Any, dry_run: bool, hosts: bool, **_options: Any) -> None:
        report = recount.run(repair=not dry_run)
        found = [recount.Difference(**one) for one in report.differences]
        silent: list[str] = []
        if hosts:
            of_hosts, silent = recount.ask_hosts()
            found += of_hosts
        for one in found:
            where = f" on {one.host}" if one.host else ""
            self.stdout.write(
                f"{one.machine} ({one.uuid}, team {one.team}){where}: {one.resource} "
                f"holds {one.held}, counted {one.counted}"
            )
        for name in silent:
            self.stderr.write(f"{name} does not answer: not compared")
        self.stdout.write(f"{report.checked} machines, {len(found)} differences")
        if found or silent:
            sys.exit(1)
