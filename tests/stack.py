"""The whole site as real processes on real hosts, in a folder of its own.

Redis, workers, beat, the watcher and the web process run exactly as ``scripts/up`` runs them, on
SQLite and private sockets, against the lab's libvirt hosts. Fault drills break them one by one;
browser tests and benchmarks use them as they are. All is asked through the API, as a program
would; the database is only read, to see what is left.

    with Stack(tmp_path, hosts=[("a", socket_path)], images=[Tiny(path)]) as stack:
        job = stack.create(name="web-1")
        stack.wait_final(job)

When a test fails, ``stack.var`` keeps every process's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
PASSWORD = "correct horse battery"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
LOG_TAIL_LINES = 25


@dataclass(frozen=True, kw_only=True)
class StackImage:
    """An image to publish before the site starts."""

    path: Path
    name: str = "Tiny Linux"
    os_id: str = "tiny"
    default_user: str = "tiny"
    min_memory_mib: int = 64
    has_cloud_init: bool = True  # False: no seed, and no first boot to wait for


@dataclass
class _Process:
    argv: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.argv} is not running"
        return self.running.pid


class Stack:
    """``workers``: processes of the quick and of the bulk queue each. ``settings``: more
    ``KVMWEB_...`` variables. ``lease_s``: how long a job of a killed worker waits."""

    def __init__(
        self,
        var: Path,
        *,
        hosts: Sequence[tuple[str, str]],
        images: Sequence[StackImage] = (),
        workers: int = 2,
        lease_s: int = 60,
        pages: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.var = var
        self.hosts = list(hosts)
        self.images = list(images)
        self.pages = pages
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.failpoints = var / "failpoints"
        self.database = var / "kvmweb.sqlite3"
        # Unix sockets have at most 107 characters; a test's folder may have more.
        self.redis_socket = Path(f"/tmp/kvmweb-stack-{os.getpid()}-{self.port}.sock")
        self.env = os.environ | {
            "KVMWEB_VAR": str(var),
            "KVMWEB_SECRET_KEY": "stack",
            "KVMWEB_REDIS_URL": f"unix://{self.redis_socket}",
            "KVMWEB_FAILPOINTS_FILE": str(self.failpoints),
            "KVMWEB_JOB_LEASE_S": str(lease_s),
            "KVMWEB_JOB_HEARTBEAT_S": str(max(1, lease_s // 6)),
            "KVMWEB_API_RATE_PER_MINUTE": "0",
            "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
            "PYTHONUNBUFFERED": "1",
            **(settings or {}),
        }
        self.tokens: dict[str, str] = {}
        # Made once: reading the CAs for each call takes longer than many answers.
        self._tls = ssl.create_default_context()
        self.processes = self._programs(workers)

    def _programs(self, workers: int) -> dict[str, _Process]:
        celery = [str(BIN / "celery"), "-A", "kvmweb"]
        worker = [*celery, "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
        commands = {
            "redis": [
                "redis-server",
                *("--port", "0", "--unixsocket", str(self.redis_socket)),
                *("--dir", str(self.var), "--save", "", "--appendonly", "no"),
            ],
            "web": [
                str(BIN / "uvicorn"),
                "kvmweb.asgi:application",
                *("--host=127.0.0.1", f"--port={self.port}", "--loop=uvloop"),
                *("--ws-per-message-deflate=false", "--no-access-log"),
                "--timeout-graceful-shutdown=2",
            ],
            "quick": [*worker, "-Q", "quick", "-c", str(workers), "-n", "quick@%h"],
            "bulk": [*worker, "-Q", "bulk", "-c", str(workers), "-n", "bulk@%h"],
            "beat": [*celery, "beat", "--loglevel=WARNING", "--pidfile="],
            "watch": [sys.executable, "manage.py", "watchhosts"],
        }
        return {
            name: _Process(argv, self.var / "log" / f"{name}.log")
            for name, argv in commands.items()
        }

    # --- start and stop -------------------------------------------------------------------------

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        (self.var / "log").mkdir(parents=True, exist_ok=True)
        self.start_process("redis")
        self.wait(self.redis_socket.exists, "redis listens", timeout_s=10)
        self.manage("migrate", "--verbosity=0")
        if self.pages:
            self.manage("collectstatic", "--noinput", "--verbosity=0")
        self._set_up()
        for name in ("web", "quick", "bulk", "beat", "watch"):
            self.start_process(name)
        self.wait(self._answers, "the site answers", timeout_s=START_TIMEOUT_S)
        self.wait(self._hosts_are_up, "all hosts are up", timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        for name in ("beat", "watch", "web", "quick", "bulk", "redis"):
            self.stop_process(name)
        self.redis_socket.unlink(missing_ok=True)

    def start_process(self, name: str) -> None:
        process = self.processes[name]
        with process.log.open("ab") as log:
            process.running = subprocess.Popen(
                process.argv,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop_process(self, name: str, sig: int = signal.SIGTERM) -> None:
        running = self.processes[name].running
        if running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            running.send_signal(sig)
        try:
            running.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait(STOP_TIMEOUT_S)
        self.processes[name].running = None

    def keep_running(self) -> None:
        """Start again what has died, as supervisord does."""
        for name, process in self.processes.items():
            if process.running is not None and process.running.poll() is not None:
                self.start_process(name)

    def children(self, name: str) -> list[int]:
        """The worker's pool processes."""
        pid = self.processes[name].pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed]

    def restart_redis_empty(self) -> None:
        self.stop_process("redis", signal.SIGKILL)
        self.start_process("redis")
        self.wait(self._redis_answers, "redis is back", timeout_s=10)

    def _set_up(self) -> None:
        wanted = {
            "hosts": self.hosts,
            "images": [asdict(image) | {"path": str(image.path)} for image in self.images],
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.stack_setup", json.dumps(wanted)],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        self.tokens = json.loads(done.stdout.splitlines()[-1])

    def manage(self, *words: str) -> None:
        """``manage.py`` of this site; anything but success fails the test."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def _redis_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(str(self.redis_socket))
            except OSError:
                return False
        return True

    def _hosts_are_up(self) -> bool:
        ready = self.rows(
            "SELECT h.id FROM hosts_host h WHERE h.reach = 'up' AND h.acceleration != ''"
            " AND EXISTS (SELECT 1 FROM hosts_pool p WHERE p.host_id = h.id AND p.is_default)"
            " AND EXISTS (SELECT 1 FROM hosts_network n WHERE n.host_id = h.id AND n.active)"
        )
        return len(ready) == len(self.hosts)

    # --- ask ------------------------------------------------------------------------------------

    def api(
        self, method: str, path: str, body: Any = None, *, user: str = "owner", ok: bool = True
    ) -> Any:
        """The answer's JSON; with ``ok`` anything but success fails the test."""
        answer = httpx.request(
            method,
            f"{self.url}/api/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.tokens[user]}"},
            timeout=30,
            verify=self._tls,
        )
        assert not ok or answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def create(self, *, name: str, **changes: Any) -> dict[str, Any]:
        """Ask for a small machine; the answer: ``{"job": ..., "vm": ...}``."""
        wanted: dict[str, Any] = {
            "name": name,
            "image": self.images[0].name,
            "vcpus": 1,
            "memory_mib": 128,
            "disk_gib": 1,
        }
        answer: dict[str, Any] = self.api("POST", "/vms", wanted | changes)
        return answer

    def delete(self, uuid: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api("DELETE", f"/vms/{uuid}?force=true&purge=true")
        return answer

    def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api("GET", f"/jobs/{job_id}")
        return answer

    # --- wait -----------------------------------------------------------------------------------

    def wait(self, reached: Callable[[], Any], what: str, *, timeout_s: float = 120.0) -> Any:
        """Until ``reached`` says something true. What died is started again meanwhile."""
        end = time.monotonic() + timeout_s
        while True:
            if found := reached():
                return found
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.tail()}")
            time.sleep(POLL_S)

    def wait_final(
        self, *answers: dict[str, Any], timeout_s: float = 120.0
    ) -> list[dict[str, Any]]:
        """The jobs once each is over."""
        ids = [answer["job"]["id"] for answer in answers]

        def over() -> list[dict[str, Any]] | None:
            self.keep_running()
            if self.states(ids) & {"queued", "running", "compensating"}:
                return None
            return [self.job(job_id) for job_id in ids]

        found: list[dict[str, Any]] = self.wait(
            over, f"{len(ids)} jobs are final", timeout_s=timeout_s
        )
        return found

    def states(self, job_ids: Iterable[str]) -> set[str]:
        keys = [job_id.replace("-", "") for job_id in job_ids]
        marks = ",".join("?" * len(keys))
        found = self.rows(f"SELECT state FROM jobs_job WHERE id IN ({marks})", *keys)
        return {row[0] for row in found}

    # --- look -----------------------------------------------------------------------------------

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the database beside the site. Writes are the site's own business."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)
        ) as line:
            return line.execute(sql, values).fetchall()

    def tail(self) -> str:
        """The last lines of every log, for a failure's message."""
        parts = []
        for name, process in self.processes.items():
            if process.log.exists():
                lines = process.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                parts.append("\n".join([f"--- {name} ({process.log})", *lines]))
        return "\n".join(parts)


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])
