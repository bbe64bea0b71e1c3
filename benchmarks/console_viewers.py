"""What a class that watches costs: the site's CPU with 5 and with 30 viewers of one busy screen.

    .venv/bin/python -m benchmarks.console_viewers [--rounds 3] [--seconds 6]

The screen (1024 x 768) scrolls text beside a film, more often than it is asked for pictures. The
viewers are WebSocket clients in a process of their own, which ask for the next picture when they
have one, as noVNC does, and do not decode. In turns, so that both numbers see the same machine.
CPU seconds are those of the site's process for each second, and for each picture that a viewer
got: where the site had to slow down for many, the second is what to compare. One JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from runner import processes
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import Redis, wait_for

FEW, MANY = 5, 30
GOAL = 1.5
SITE = "benchmarks.console_viewers_site"
NOVNC = (7, -26, -223, -239)  # Tight, quality 6, sizes, pointer
SETTLE_S = 2.0


class Viewer:
    """Asks for the next picture when it has one; counts them."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line
        self.pictures = 0
        self.bytes = 0

    async def run(self) -> None:
        await self.line.send(b"RFB 003.008\n\x01\x01")
        heard = b""
        while len(heard) < 12 + 2 + 4 + 24:
            heard += await self._take()
        await self.line.send(struct.pack(f">BxH{len(NOVNC)}i", 2, len(NOVNC), *NOVNC))
        size = struct.unpack_from(">HH", heard, 18)
        incremental = 0
        while True:
            await self.line.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, *size))
            incremental = 1
            self.bytes += len(await self._take())
            self.pictures += 1

    async def _take(self) -> bytes:
        data = await self.line.recv()
        assert isinstance(data, bytes)
        return data


async def watch(port: int, secrets: list[str], seconds: float, pid: int) -> dict[str, float]:
    """So many viewers, for ``seconds`` after they have settled."""
    async with contextlib.AsyncExitStack() as stack:
        viewers = []
        for secret in secrets:
            where = f"ws://127.0.0.1:{port}/ws/console/vnc"
            words: Any = ["binary", f"ticket.{secret}"]
            line = await stack.enter_async_context(
                connect(where, subprotocols=words, compression=None, max_size=None)
            )
            viewers.append(Viewer(line))
        tasks = [asyncio.ensure_future(viewer.run()) for viewer in viewers]
        await asyncio.sleep(SETTLE_S)
        before = [viewer.pictures for viewer in viewers]
        cpu, began = cpu_s(pid), time.perf_counter()
        await asyncio.sleep(seconds)
        spent, took = cpu_s(pid) - cpu, time.perf_counter() - began
        each = [v.pictures - b for v, b in zip(viewers, before, strict=True)]
        if done := [task for task in tasks if task.done()]:
            raise RuntimeError(f"a viewer ended: {done[0].exception()!r}")
        for task in tasks:
            task.cancel()
    pictures = statistics.mean(each)
    return {
        "cpu_s_per_s": spent / took,
        "pictures_per_s": pictures / took,
        "least_pictures_per_s": min(each) / took,
        "cpu_ms_per_picture": spent / pictures * 1000,
        "KiB_per_picture": sum(v.bytes for v in viewers) / sum(v.pictures for v in viewers) / 1024,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def site(folder: Path, port: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Its process id, and the environment of whoever speaks to its database."""
    with contextlib.ExitStack() as stack:
        redis = Redis(folder / "redis")
        redis.start()
        stack.callback(redis.stop)
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
            "KVMWEB_VAR": str(folder),
            "KVMWEB_SECRET_KEY": "bench",
            "KVMWEB_REDIS_URL": redis.url,
            "KVMWEB_DATABASE_URL": f"sqlite:///{folder / 'bench.sqlite3'}",
            "KVMWEB_BENCH_DISPLAY": str(folder / "display.sock"),
        }
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
        subprocess.run(migrate, cwd=ROOT, env=env, check=True)
        log = stack.enter_context((folder / "log").open("ab"))
        command, extra = processes.programs(listen="127.0.0.1", port=port, carrier="asgi")["web"]
        command = [sys.executable, "-m", "uvicorn", f"{SITE}:application", *command[2:]]
        display = [sys.executable, "-m", SITE, "display", env["KVMWEB_BENCH_DISPLAY"]]
        pids = []
        for argv in (command, display):
            process = subprocess.Popen(
                argv, cwd=ROOT, env=env | extra, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            stack.callback(_end, process)
            pids.append(process.pid)
        wait_for(lambda: answers(port), f"the site listens ({folder / 'log'})")
        wait_for(Path(env["KVMWEB_BENCH_DISPLAY"]).exists, "the display listens")
        yield pids[0], env


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()
    port = free_port()
    rounds: dict[int, list[dict[str, float]]] = {FEW: [], MANY: []}
    with (
        tempfile.TemporaryDirectory(prefix="kvmweb-bench-viewers-") as folder,
        site(Path(folder), port) as (pid, env),
    ):
        for turn in range(asked.rounds):
            for count, found in rounds.items():
                print(f"· round {turn + 1}: {count} viewers", file=sys.stderr, flush=True)
                argv = [sys.executable, "-m", SITE, "tickets", str(count)]
                issued = subprocess.run(argv, cwd=ROOT, env=env, check=True, capture_output=True)
                secrets = issued.stdout.decode().split()
                found.append(asyncio.run(watch(port, secrets, asked.seconds, pid)))
    medians = {
        count: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for count, found in rounds.items()
    }
    ratios = {
        key: medians[MANY][key] / medians[FEW][key] for key in ("cpu_s_per_s", "cpu_ms_per_picture")
    }
    result = {
        "viewers": {
            str(count): {key: round(value, 3) for key, value in one.items()}
            for count, one in medians.items()
        },
        "ratios": {key: round(value, 2) for key, value in ratios.items()},
        "goal": GOAL,
        "met": all(value <= GOAL for value in ratios.values()),
    }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
