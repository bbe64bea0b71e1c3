"""``manage.py publishports``: listen at the site's ports that lead to machines."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vms.ports import rules
from vms.ports.publisher import Publisher


class Command(BaseCommand):
    # They import every page and the API, which this process never shows.
    requires_system_checks = ()
    help = (
        "Carries connections to the published ports of machines. Runs until SIGTERM. Run one, "
        "where the networks of the hosts on this machine are."
    )

    def handle(self, *_: Any, **_options: Any) -> None:
        if not rules.is_on():
            raise CommandError("This site publishes no ports: set KVMWEB_PUBLISH_PORTS.")
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Publisher().run(stop)
