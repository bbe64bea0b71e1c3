"""Private servers and processes of a test run: PostgreSQL, Redis, our own commands.

Everything listens on unix sockets in temporary folders and is stopped by its own process; nothing
of the machine's own servers is touched. ``postgres()`` is started at its first use and shared by
the whole run; a ``Redis`` and a ``Process`` belong to the test that starts them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


def wait_for(
    condition: Callable[[], object],
    what: str,
    *,
    timeout_s: float = _START_TIMEOUT_S,
    every_s: float = 0.05,
) -> None:
    """Until ``condition()`` is true; fails after ``timeout_s`` with ``what`` was awaited."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(every_s)


class Process:
    """A Python command of ours in a session of its own: killing it takes its children along."""

    def __init__(self, *argv: str, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, *argv],
                env=dict(os.environ) | dict(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        """To this process alone, not to its children."""
        self.popen.send_signal(number)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.alive():
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=_STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and everything in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Redis:
    """A Redis without persistence: started again it is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # A unix socket's path has at most 107 bytes; pytest's folders can be longer.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="kvmweb-redis-"))
        self.socket = self._socket_folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        argv = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        argv += ["--appendonly", "no", "--dir", str(self.folder), "--daemonize", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self.socket.exists, "Redis has its socket")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def restart_empty(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._socket_folder, ignore_errors=True)


def database_url() -> str:
    """The test database of this process, for ``KVMWEB_DATABASE_URL`` of another one."""
    from django.db import connection

    settings = connection.settings_dict
    name = str(settings["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    host = quote(str(settings["HOST"]), safe="") if settings["HOST"] else ""
    port = f":{settings['PORT']}" if settings["PORT"] else ""
    password = f":{quote(settings['PASSWORD'], safe='')}" if settings["PASSWORD"] else ""
    return f"postgres://{quote(settings['USER'], safe='')}{password}@{host}{port}/{name}"


@dataclass(frozen=True, kw_only=True)
class Postgres:
    folder: Path  # holds its socket
    bin: Path
    user: str = "kvmweb"

    def url(self, database: str) -> str:
        """For ``KVMWEB_DATABASE_URL``; django-environ wants a socket's folder quoted."""
        return f"postgres://{self.user}@{quote(str(self.folder), safe='')}/{database}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        argv = [str(self.bin / "psql"), "-h", str(self.folder), "-U", self.user, "-d", database]
        done = subprocess.run(
            [*argv, "-qAtc", sql], check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    @contextlib.contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """The URL of a new database, empty or a copy of ``template``, dropped afterwards."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.psql(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.psql(f"DROP DATABASE {name} WITH (FORCE)")


def find_postgres() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@functools.cache
def postgres() -> Postgres:
    bin_folder = find_postgres()
    if bin_folder is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="kvmweb-pg-"))
    server = Postgres(folder=folder, bin=bin_folder)
    as_owner = _unprivileged(folder)
    data = folder / "data"
    initdb = [str(bin_folder / "initdb"), "-D", str(data), "-U", server.user, "-A", "trust"]
    initdb += ["--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
    subprocess.run([*as_owner, *initdb], check=True, capture_output=True, cwd=folder)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "shared_buffers": "64MB",
    }
    argv = [*as_owner, str(bin_folder / "postgres"), "-D", str(data)]
    argv += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder
        )
    _stop_at_exit(process, folder)
    wait_for(lambda: _answers(server), f"PostgreSQL answers ({folder / 'log'})")
    return server


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: then it runs as the user of Debian's package."""
    if os.geteuid() != 0:
        return []
    owner = pwd.getpwnam("postgres")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    folder.chmod(0o755)
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]


def _stop_at_exit(process: subprocess.Popen[bytes], folder: Path) -> None:
    parent = os.getpid()

    def stop() -> None:
        if os.getpid() != parent:  # a forked child of the run is not the one to clean up
            return
        process.send_signal(signal.SIGINT)  # its "fast" shutdown, which ends connections
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)


def _answers(server: Postgres) -> bool:
    try:
        return server.psql("SELECT 1") == "1"
    except subprocess.CalledProcessError:
        return False
