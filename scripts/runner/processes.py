"""The processes of the site, kept running by supervisord (from PyPI; see docs/dependencies.md)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner import say
from runner.paths import (
    LOGS,
    PYTHON,
    REDIS_SOCKET,
    ROOT,
    STARTED,
    SUPERVISOR_CONF,
    SUPERVISOR_SOCKET,
    VAR,
    VENV,
)

# Fewer malloc arenas keep many small Python processes small; the console process moves large
# blocks, which glibc would otherwise map and unmap for each one (design, section 9).
MARK = "KVMWEB_STARTED_BY"  # in the environment of every process of ours: finds the orphans
ENVIRONMENT = {
    MARK: str(SUPERVISOR_CONF),
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
    "DJANGO_SETTINGS_MODULE": "kvmweb.settings.base",
}
WEB_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
}


GIVE_UP_AFTER = 3  # looks at a program that keeps ending
Program = tuple[list[str], dict[str, str]]  # command, environment


def programs(*, listen: str, port: int, carrier: str) -> dict[str, Program]:
    found: dict[str, Program] = {
        "web": (
            [
                str(VENV / "bin" / "uvicorn"),
                "kvmweb.asgi:application",
                f"--host={listen}",
                f"--port={port}",
                "--loop=uvloop",
                "--ws-per-message-deflate=false",
                "--ws-max-size=1048576",
                "--no-access-log",
                "--no-proxy-headers",  # KVMWEB_TRUSTED_PROXIES says whom to believe
                "--timeout-graceful-shutdown=5",
            ],
            WEB_ENVIRONMENT,
        ),
        "background": ([str(PYTHON), "-m", "kvmweb.background"], {}),  # workers, beat, watcher
    }
    if carrier == "websockify":
        found["console"] = (
            [str(PYTHON), "manage.py", "websockify", f"--listen={listen}", f"--port={port + 1}"],
            WEB_ENVIRONMENT,
        )
    return found


def write_config(*, listen: str, port: int, carrier: str, extra_env: dict[str, str]) -> None:
    sections = [
        "; written by scripts/up; changes here are lost",
        "[unix_http_server]",
        f"file={SUPERVISOR_SOCKET}",
        "chmod=0700",
        "[supervisord]",
        f"logfile={LOGS / 'supervisord.log'}",
        "logfile_maxbytes=2MB",
        "logfile_backups=1",
        f"pidfile={VAR / 'supervisord.pid'}",
        f"directory={ROOT}",
        "nodaemon=false",
        "minfds=4096",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisorctl]",
        f"serverurl=unix://{SUPERVISOR_SOCKET}",
    ]
    if os.geteuid() == 0:
        sections.insert(sections.index("minfds=4096"), "user=root")
    redis = [
        "redis-server",
        *("--port", "0", "--unixsocket", str(REDIS_SOCKET), "--unixsocketperm", "700"),
        *("--dir", str(VAR / "redis"), "--appendonly", "yes", "--save", "", "--daemonize", "no"),
        *("--loglevel", "warning"),
    ]
    table = {"redis": (redis, {}), **programs(listen=listen, port=port, carrier=carrier)}
    for name, (argv, own) in table.items():
        environment = ENVIRONMENT | extra_env | own
        pairs = ",".join(
            f'{key}="{value.replace("%", "%%")}"' for key, value in sorted(environment.items())
        )
        sections += [
            f"[program:{name}]",
            f"command={shlex.join(argv).replace(chr(39) * 2, chr(34) * 2)}",
            f"environment={pairs}",
            f"autostart={'true' if name == 'redis' else 'false'}",
            "autorestart=true",
            "startsecs=1",
            "startretries=1000",
            f"stopwaitsecs={15 if name == 'background' else 8}",
            "stopasgroup=false",
            "killasgroup=true",
            f"priority={1 if name == 'redis' else 10}",
            f"stdout_logfile={LOGS / (name + '.log')}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
            "redirect_stderr=true",
        ]
    SUPERVISOR_CONF.write_text("\n".join(sections) + "\n")
    SUPERVISOR_CONF.chmod(0o600)


def supervisorctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(VENV / "bin" / "supervisorctl"), "-c", str(SUPERVISOR_CONF), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def supervisor_pid() -> int | None:
    """The pid of our running supervisord, or None."""
    try:
        pid = int((VAR / "supervisord.pid").read_text())
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid if str(SUPERVISOR_CONF).encode() in line else None


@contextlib.contextmanager
def only_one(program: str) -> Iterator[None]:
    """One ``up`` or ``down`` at a time in this folder. It holds what it changes."""
    with (VAR / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise say.StepFailed(
                f"another is at work here: ./scripts/{lock.read().strip() or 'up'}",
                "wait until it has finished, or stop it with Ctrl+C",
            ) from None
        lock.truncate(0)
        lock.write(f"{program} (process {os.getpid()})")
        lock.flush()
        yield


def orphans() -> list[int]:
    """Processes of ours whose supervisord was killed, and what they started."""
    mark = f"{MARK}={SUPERVISOR_CONF}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:  # noqa: PERF203 - another user's, or gone
            continue
    return found


def end_orphans(*, timeout_s: float = 15) -> None:
    """End them as supervisord would have: a moment to finish in, then the end."""
    number, end = signal.SIGTERM, time.monotonic() + timeout_s
    while left := orphans():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL and time.monotonic() > end + timeout_s:
            raise say.StepFailed(f"processes do not end: {left}", f"kill -9 {left[0]}")
        if time.monotonic() > end:
            number = signal.SIGKILL
        time.sleep(0.3)


def start_supervisor(*, step: say.Step) -> None:
    argv = [str(VENV / "bin" / "supervisord"), "-c", str(SUPERVISOR_CONF)]
    (VAR / "redis").mkdir(exist_ok=True)
    say.run(
        argv,
        step=step,
        log=LOGS / "up.log",
        advice=f"look into {LOGS / 'supervisord.log'}",
        cwd=ROOT,
    )


def wait_until(
    ready: Callable[[], bool], *, timeout_s: float, what: str, log: Path, program: str = ""
) -> None:
    """Wait; StepFailed when the time is over, or ``program`` has ended three times meanwhile."""
    now = time.monotonic()
    end, look_at, ended = now + timeout_s, now + 2, 0
    while not ready():
        now = time.monotonic()
        if now > end:
            raise say.StepFailed(f"{what} after {timeout_s:.0f} s", "look at the log", log=log)
        if program and now > look_at:
            look_at = now + 2
            shown = supervisorctl("status", program).stdout
            ended += "BACKOFF" in shown or "FATAL" in shown
            if ended >= GIVE_UP_AFTER:
                raise say.StepFailed(f"{program} keeps ending", "look at the log", log=log)
        time.sleep(0.1)


def stop_supervisor(*, timeout_s: float = 40) -> bool:
    """End supervisord and all of its processes; False when nothing ran."""
    pid = supervisor_pid()
    if pid is None:
        found = bool(orphans())
        end_orphans()
        return found
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + timeout_s
    while supervisor_pid() is not None:
        if time.monotonic() > end:
            raise say.StepFailed(
                f"supervisord ({pid}) does not end", f"look into {LOGS / 'supervisord.log'}"
            )
        time.sleep(0.1)
    end_orphans()
    return True


def read_started() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(STARTED.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def note_started(**what: Any) -> None:
    """Remember what this ``up`` began, so that ``down`` ends that and nothing else."""
    STARTED.write_text(json.dumps(read_started() | what, indent=1) + "\n")


def started_at(pid: int) -> str:
    """Field 22 of /proc/PID/stat: tells a process from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""
