"""What carrying a console costs: both carriers of ours, plain websockify 0.13, and no carrier.

    .venv/bin/python -m benchmarks.console [--rounds 5] [--seconds 1] [--idle 200]

All in one run and in turns, so that each sees the same machine. Bytes at full rate in writes of
64 KiB and of 1460 B (MiB/s), a key and its echo alone and beside a connection at full rate (µs),
memory for each idle connection (KiB, PSS), growth with a viewer that reads nothing (MiB, PSS),
CPU seconds of the carrier for each GiB. Prints JSON with ratios against the goals of issue 3.

For round trips the server's side (carrier and display) has one core and the client another; for
everything else the kernel may place them. Plain websockify has a TCP target, as people use it;
with a unix socket as its target it is measured as well, for comparison.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from runner import processes

from benchmarks import console_display as display
from benchmarks.memory import children, pss_kib
from tests.servers import Redis, wait_for

MIB, GIB = 1 << 20, 1 << 30
WRITES = {"64 KiB": 65536, "1460 B": 1460}
TRIPS = 2000
SETTLE_S = 1.0
STALLED_S = 4.0
SUBJECTS = ("asgi", "websockify", "plain", "plain to a unix socket", "direct")


# --- a client without a library: what it costs would be measured too -----------------------------
class Client:
    """A WebSocket client that only counts what it gets, or plain TCP (``secret`` None)."""

    def __init__(self, port: int, secret: str | None) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), 30)
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.web = secret is not None
        if secret is not None:
            self._upgrade(port, secret)
        self.send(display.HELLO)

    def _upgrade(self, port: int, secret: str) -> None:
        protocols = f"binary, ticket.{secret}" if secret else "binary"
        head = (
            f"GET /ws/console/vnc HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Sec-WebSocket-Protocol: {protocols}\r\n\r\n"
        )
        self.line.sendall(head.encode())
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            some = self.line.recv(1)
            if not some:
                raise RuntimeError(f"refused: {got!r}")
            got += some
        if b" 101 " not in got:
            raise RuntimeError(f"refused: {got!r}")

    def send(self, data: bytes) -> None:
        if self.web:  # one frame, masked with zeros
            self.line.sendall(bytes([0x82, 0x80 | len(data), 0, 0, 0, 0]) + data)
        else:
            self.line.sendall(data)

    def wants(self, number: int) -> None:
        """What the display is to do for this connection."""
        self.send(display.key(number))

    def trip_us(self) -> float:
        """A key, and its echo in one frame."""
        length = display.KEY_BYTES + (2 if self.web else 0)
        begin = time.perf_counter()
        self.send(display.key(0))
        got = display.exactly(self.line, length)
        took = (time.perf_counter() - begin) * 1e6
        if self.web and got[0] != 0x82:
            raise RuntimeError(f"not a binary frame: {got!r}")
        return took

    def take(self, seconds: float) -> tuple[int, float]:
        """(bytes, seconds) of reading as fast as it goes."""
        buffer = bytearray(MIB)
        begin, taken = time.perf_counter(), 0
        while (now := time.perf_counter()) - begin < seconds:
            taken += self.line.recv_into(buffer)
        return taken, now - begin

    def close(self) -> None:
        self.line.close()


# --- what is measured ----------------------------------------------------------------------------
@dataclass
class Subject:
    name: str
    port: int
    process: subprocess.Popen[bytes] | None  # None: the display itself
    secret: Callable[[], str | None]
    figures: dict[str, list[float]] = field(default_factory=dict)

    def client(self) -> Client:
        return Client(self.port, self.secret())

    def note(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    def pids(self) -> list[int]:
        if self.process is None:
            return []
        table, waiting, found = children(), [self.process.pid], []
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += table.get(pid, [])
        return found

    def memory_kib(self) -> int:
        return sum(_quietly(pss_kib, pid) for pid in self.pids())

    def cpu_s(self) -> float:
        return sum(_quietly(_cpu_s, pid) for pid in self.pids())

    def pin(self, cores: set[int]) -> None:
        for pid in self.pids():
            _pin(pid, cores)


def _quietly(read: Callable[[int], Any], pid: int) -> Any:
    try:
        return read(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pin(pid: int, cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), cores)


class Bench:
    def __init__(
        self, subjects: list[Subject], display_pid: int, asked: argparse.Namespace
    ) -> None:
        self.subjects = subjects
        self.display_pid = display_pid
        self.asked = asked
        self.cores = sorted(os.sched_getaffinity(0))

    def run(self) -> None:
        for turn in range(self.asked.rounds):
            for subject in self.subjects:
                print(f"· round {turn + 1}: {subject.name}", file=sys.stderr, flush=True)
                self.throughput(subject)
                self.round_trips(subject)
        for subject in self.subjects:
            print(f"· memory: {subject.name}", file=sys.stderr, flush=True)
            if subject.process is not None:
                self.idle(subject)
                self.stalled(subject)

    def throughput(self, subject: Subject) -> None:
        for name, size in WRITES.items():
            client = subject.client()
            client.wants(size)
            client.take(0.2)
            before = subject.cpu_s()
            taken, took = client.take(self.asked.seconds)
            spent = subject.cpu_s() - before
            client.close()
            subject.note(f"MiB/s at {name}", taken / took / MIB)
            if subject.process is not None and size == WRITES["64 KiB"]:
                subject.note("CPU s per GiB", spent / (taken / GIB))

    def round_trips(self, subject: Subject) -> None:
        server, mine = {self.cores[0]}, {self.cores[-1]}
        subject.pin(server)
        _pin(self.display_pid, server)
        os.sched_setaffinity(0, mine)
        try:
            client = subject.client()
            client.wants(display.ECHO)
            subject.note("round trip µs", self._trips(client, TRIPS))
            with self._neighbour(subject):
                subject.note("beside full rate µs", self._trips(client, TRIPS // 4))
            client.close()
        finally:
            os.sched_setaffinity(0, self.cores)
            subject.pin(set(self.cores))
            _pin(self.display_pid, set(self.cores))

    def _trips(self, client: Client, count: int) -> float:
        for _ in range(count // 10):
            client.trip_us()
        return statistics.median(client.trip_us() for _ in range(count))

    @contextlib.contextmanager
    def _neighbour(self, subject: Subject) -> Iterator[None]:
        """Another connection at full rate, read by a process of its own on any core."""
        secret = subject.secret()
        pid = os.fork()
        if pid == 0:
            try:
                os.sched_setaffinity(0, self.cores)
                client = Client(subject.port, secret)
                client.wants(WRITES["64 KiB"])
                client.take(600)
            finally:
                os._exit(0)
        try:
            time.sleep(SETTLE_S / 2)
            yield
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def idle(self, subject: Subject) -> None:
        warm = [subject.client() for _ in range(2)]
        time.sleep(SETTLE_S)
        before = subject.memory_kib()
        clients = []
        for _ in range(self.asked.idle):
            client = subject.client()
            client.wants(display.IDLE)
            clients.append(client)
        time.sleep(2 * SETTLE_S)
        subject.note("KiB a connection", (subject.memory_kib() - before) / len(clients))
        for client in [*clients, *warm]:
            client.close()
        time.sleep(2 * SETTLE_S)

    def stalled(self, subject: Subject) -> None:
        """The first reads: what any connection at full rate costs is not counted."""
        other = subject.client()
        other.wants(WRITES["64 KiB"])
        other.take(0.5)
        other.close()
        idle = subject.client()
        time.sleep(2 * SETTLE_S)
        before = subject.memory_kib()
        idle.wants(WRITES["64 KiB"])
        time.sleep(STALLED_S)
        subject.note("stalled MiB", (subject.memory_kib() - before) / 1024)
        idle.close()


# --- start, and what it comes to -----------------------------------------------------------------
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def everything(
    folder: Path, only: tuple[str, ...] = SUBJECTS
) -> Iterator[tuple[list[Subject], int]]:
    """The carriers in ``only``, running; and the process id of the display."""
    with contextlib.ExitStack() as stack:
        redis = Redis(folder / "redis")
        redis.start()
        stack.callback(redis.kill)
        shown = str(folder / "display.sock")
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
            "KVMWEB_VAR": str(folder),
            "KVMWEB_SECRET_KEY": "bench",
            "KVMWEB_REDIS_URL": redis.url,
            "KVMWEB_DATABASE_URL": f"sqlite:///{folder / 'bench.sqlite3'}",
            "KVMWEB_BENCH_DISPLAY": shown,
            "MALLOC_ARENA_MAX": "2",
        }
        log = stack.enter_context((folder / "log").open("ab"))

        def start(argv: list[str], extra: dict[str, str] | None = None, **how: Any) -> Any:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=env | (extra or {}),
                **({"stdin": subprocess.DEVNULL, "stdout": log} | how),
                stderr=log,
            )
            stack.callback(_end, process)
            return process

        ports = {name: free_port() for name in SUBJECTS}
        python = sys.executable
        display_words = [f"--unix={shown}", f"--port={ports['direct']}"]
        shows = start([python, "-m", "benchmarks.console_display", *display_words])
        subprocess.run(
            [python, "manage.py", "migrate", "--verbosity=0"], cwd=ROOT, env=env, check=True
        )
        issuer = start(
            [python, "-m", "benchmarks.console_site", "tickets"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # As scripts/up starts them, but for what is shown.
        table = processes.programs(listen="127.0.0.1", port=ports["asgi"], carrier="asgi")
        web, web_env = table["web"]
        own = f"127.0.0.1:{ports['plain']}"
        to_unix = f"127.0.0.1:{ports['plain to a unix socket']}"
        ours = [python, "-m", "benchmarks.console_site", "websockify"]
        plain = [python, "-m", "websockify"]
        commands = {
            "asgi": [_ours(word) for word in web],
            "websockify": [*ours, f"--port={ports['websockify']}"],
            "plain": [*plain, own, f"127.0.0.1:{ports['direct']}"],
            "plain to a unix socket": [*plain, to_unix, f"--unix-target={shown}"],
        }

        def ticket() -> str:
            issuer.stdin.write(b"\n")
            issuer.stdin.flush()
            return str(issuer.stdout.readline().decode().strip())

        def subject(name: str) -> Subject:
            started = start(commands[name], web_env) if name in commands else None
            secret: Callable[[], str | None] = {
                "asgi": ticket,
                "websockify": ticket,
                "direct": lambda: None,
            }.get(name, lambda: "")
            return Subject(name, ports[name], started, secret)

        try:
            subjects = [subject(name) for name in only]
            for one in subjects:
                wait_for(lambda port=one.port: listens(port), f"{one.name} listens", timeout_s=60)
            yield subjects, shows.pid
        except BaseException:
            sys.stderr.write((folder / "log").read_text()[-3000:])
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


def _ours(word: str) -> str:
    return "benchmarks.console_site:application" if word == "kvmweb.asgi:application" else word


def verdict(subjects: list[Subject]) -> dict[str, Any]:
    medians = {
        subject.name: {what: statistics.median(seen) for what, seen in subject.figures.items()}
        for subject in subjects
    }
    plain, direct = medians["plain"], medians["direct"]
    goals: dict[str, Any] = {}
    for name in ("asgi", "websockify"):
        own = medians[name]
        ratios = {
            "throughput to plain": (own["MiB/s at 64 KiB"] / plain["MiB/s at 64 KiB"], ">=", 1.0),
            "throughput to direct": (
                own["MiB/s at 64 KiB"] / direct["MiB/s at 64 KiB"],
                ">=",
                1 / 3,
            ),
            "throughput at 1460 B to plain": (
                own["MiB/s at 1460 B"] / plain["MiB/s at 1460 B"],
                ">=",
                1.0,
            ),
            "throughput at 1460 B to direct": (
                own["MiB/s at 1460 B"] / direct["MiB/s at 1460 B"],
                ">=",
                1 / 3,
            ),
            "round trip to plain": (own["round trip µs"] / plain["round trip µs"], "<=", 1.1),
            "round trip to direct": (own["round trip µs"] / direct["round trip µs"], "<=", 2.5),
            "beside full rate to plain": (
                own["beside full rate µs"] / plain["beside full rate µs"],
                "<=",
                2.0,
            ),
            "stalled MiB": (own["stalled MiB"], "<=", 4.0),
        }
        if name == "asgi":
            ratios["KiB a connection"] = (own["KiB a connection"], "<=", 50.0)
        goals[name] = {
            what: {
                "value": round(value, 2),
                "goal": f"{relation} {goal:.3g}",
                "met": value >= goal if relation == ">=" else value <= goal,
            }
            for what, (value, relation, goal) in ratios.items()
        }
    return {
        "benchmark": "console",
        "medians": {
            name: {what: round(value, 1 if value > 10 else 3) for what, value in seen.items()}
            for name, seen in medians.items()
        },
        "goals": goals,
        "met": all(goal["met"] for own in goals.values() for goal in own.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--idle", type=int, default=200)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvmweb-bench-") as folder,
        everything(Path(folder)) as (subjects, display_pid),
    ):
        Bench(subjects, display_pid, asked).run()
        print(json.dumps(verdict(subjects), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
