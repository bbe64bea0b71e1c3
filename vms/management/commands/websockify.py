"""``manage.py websockify``: the console carrier that runs beside the site."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from vms.consoles import carrier_websockify


class Command(BaseCommand):
    help = "Carries VNC consoles in processes of their own (KVMWEB_CONSOLE_CARRIER=websockify)."
    # They import every page and the API, which this process never shows (35 MiB).
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8001)

    def handle(self, *_: Any, **options: Any) -> None:
        broker = Path(settings.VAR_DIR) / f"console-broker-{options['port']}.sock"
        asyncio.run(self._run(broker, options["listen"], options["port"]))

    async def _run(self, broker: Path, listen: str, port: int) -> None:
        serving = asyncio.ensure_future(carrier_websockify.serve(broker))
        words = ["--broker", str(broker), "--listen", listen, "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-m", "vms.consoles.websockify_server", *words],
            cwd=settings.BASE_DIR,
        )
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set() and not serving.done() and server.poll() is None:
                await asyncio.wait({stopping, serving}, timeout=1)
        finally:
            if server.poll() is None:
                server.terminate()
            broker.unlink(missing_ok=True)
        if serving.done():
            serving.result()
        if not stop.is_set():
            raise CommandError(f"the carrier on {listen}:{port} ended; is the port taken?")
