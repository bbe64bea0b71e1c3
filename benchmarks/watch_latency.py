#!/usr/bin/env python
"""How long a change made with ``virsh`` takes to reach a machine's row, and the nudge to its page.

    .venv/bin/python benchmarks/watch_latency.py [--lab DIR] [--rounds 25]

Prints JSON: milliseconds from the start of the ``virsh`` command, and from its end (0 when the
nudge was there before virsh had ended). Needs root for the lab; uses a site of its own (SQLite,
Redis on a socket) in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOST = "a"
NAME = "latency"
# verb of virsh -> what the row must say then. In this order they make a cycle.
CYCLE = (
    ("start", "running"),
    ("suspend", "paused"),
    ("resume", "running"),
    ("destroy", "shutoff"),
)
PATIENCE_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, help="folder of a running lab; without: one is made")
    parser.add_argument("--rounds", type=int, default=25, help="of four changes each")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvmweb-bench-")))
        host = stack.enter_context(running_lab(arguments.lab or folder / "lab"))
        os.environ |= {
            "KVMWEB_VAR": str(folder),
            "KVMWEB_REDIS_URL": f"unix://{folder / 'redis.sock'}",
            "KVMWEB_LOG_LEVEL": "WARNING",
            "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
        }
        stack.enter_context(
            process(
                "redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"),
                "--save", "", "--dir", str(folder), ready=(folder / "redis.sock").exists,
            )
        )  # fmt: skip
        print(json.dumps(measure(stack, host, arguments.rounds), indent=1))
    return 0


def measure(stack: ExitStack, host: dict[str, Any], rounds: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    vm = make_machine(host)
    uri = host["uri"]
    virsh(uri, "define", domain_file(vm))
    stack.callback(virsh, uri, "undefine", NAME, check=False)
    stack.callback(virsh, uri, "destroy", NAME, check=False)
    watch = stack.enter_context(
        process(sys.executable, str(ROOT / "manage.py"), "watchhosts", "--host", HOST)
    )
    wait("the first sync", lambda: observed(vm) == "shutoff")
    nudges = stack.enter_context(listening(str(vm.uuid)))
    from_start: list[float] = []
    from_end: list[float] = []
    row_from_start: list[float] = []
    for _ in range(rounds):
        for verb, wanted in CYCLE:
            nudges.clear()
            began = time.perf_counter()
            ended: list[float] = []
            caller = threading.Thread(
                target=lambda verb=verb, ended=ended: (
                    virsh(uri, verb, NAME), ended.append(time.perf_counter())
                )
            )  # fmt: skip
            caller.start()
            wait(f"{wanted} after {verb}", lambda wanted=wanted: observed(vm) == wanted, 0.002)
            row_at = time.perf_counter()
            wait(f"a nudge after {verb}", lambda: bool(nudges), 0.002)
            caller.join()
            nudged_at = nudges[0]
            from_start.append(nudged_at - began)
            from_end.append(max(0.0, nudged_at - ended[0]))
            row_from_start.append(row_at - began)
            # The next change must not meet the tail of this one.
            time.sleep(0.15)
    return {
        "changes": len(from_start),
        "goal_p95_ms": 300,
        "virsh_start_to_nudge_ms": summary(from_start),
        "virsh_end_to_nudge_ms": summary(from_end),
        "virsh_start_to_row_ms": summary(row_from_start),
        "watcher_rss_mib": rss_mib(watch.pid),
        "load": os.getloadavg()[0],
    }


def make_machine(host: dict[str, Any]) -> Any:
    from accounts import services
    from hosts.models import Host
    from vms.models import VM

    user = services.create_user(None, "bench", "bench@example.test", "correct horse battery")
    row = Host.objects.create(name=HOST, transport="unix", socket_path=host["socket_path"])
    return VM.objects.create(
        name=NAME, domain_name=NAME, owner=user, team=user.personal_team, host=row,
        vcpus=1, memory_mib=64, hostname=NAME, first_boot="none",
    )  # fmt: skip


def domain_file(vm: Any) -> str:
    path = Path(os.environ["KVMWEB_VAR"]) / "domain.xml"
    path.write_text(
        f"<domain type='qemu'><name>{NAME}</name><uuid>{vm.uuid}</uuid>"
        "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>"
        "<devices><controller type='usb' model='none'/></devices></domain>"
    )
    return str(path)


def observed(vm: Any) -> str:
    from vms.models import VM

    return str(VM.objects.values_list("observed", flat=True).get(pk=vm.pk))


@contextmanager
def listening(uuid: str) -> Iterator[list[float]]:
    """When nudges about this machine arrived, as a page's consumer gets them."""
    from channels.layers import get_channel_layer

    from jobs import live

    at: list[float] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def listen() -> None:
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add(live.ADMINS, channel)
        ready.set()
        while True:
            message = await layer.receive(channel)
            if message.get("topic") == "vm" and message.get("id") == uuid:
                at.append(time.perf_counter())

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(listen())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    ready.wait(PATIENCE_S)
    time.sleep(0.3)  # Redis has no answer to a subscription that channels would wait for
    yield at
    loop.call_soon_threadsafe(loop.stop)


def virsh(uri: str, *argv: str, check: bool = True) -> None:
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *argv], check=False, capture_output=True, text=True
    )
    if check and done.returncode:
        raise SystemExit(f"virsh {argv}: {done.stderr}")


@contextmanager
def running_lab(folder: Path) -> Iterator[dict[str, Any]]:
    command = [str(ROOT / "scripts" / "lab"), "--dir", str(folder)]
    made = not folder.exists()
    if made:
        subprocess.run([*command, "up", "1"], check=True, stdout=sys.stderr)
    try:
        said = subprocess.run([*command, "status", "--json"], check=True, capture_output=True)
        yield next(host for host in json.loads(said.stdout) if host["name"] == HOST)
    finally:
        if made:
            subprocess.run([*command, "down", "--purge"], check=False, stdout=sys.stderr)


@contextmanager
def process(
    *argv: str, ready: Callable[[], bool] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        if ready is not None:
            wait(argv[0], ready)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(PATIENCE_S)


def wait(what: str, condition: Callable[[], bool], pause_s: float = 0.05) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"waited {PATIENCE_S:.0f} s in vain for {what}")
        time.sleep(pause_s)


def summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(value * 1000 for value in seconds)
    return {
        "p50": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(len(ordered) * 0.95) - 1], 1),
        "max": round(ordered[-1], 1),
    }


def rss_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


if __name__ == "__main__":
    raise SystemExit(main())
