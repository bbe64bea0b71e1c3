"""Programs that a step runs: none may outlive its worker, and none may fill the memory.

Each gets a process group of its own, which is killed as a whole on cancel, on a lost lease and
on a time-out; ``setpriv --pdeathsig KILL`` has the kernel kill it when the worker is killed.
(``preexec_fn`` could do the same, but may deadlock in a process with threads.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import IO, cast

from jobs.errors import CommandTimeout

OUTPUT_LIMIT_BYTES = 64 * 1024  # of each stream; what came last is kept: errors come last
READ_BYTES = 64 * 1024
POLL_S = 0.25
DRAIN_S = 1.0  # for output that is still in the pipe after the end, or held by a grandchild

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

OnOutput = Callable[[bytes], None]


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process ``number`` when its parent, the process ``parent``, ends;
    at once when it has ended already. Not inherited."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class Group:
    """The programs that run for one job now. Another thread may kill them all."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._killed = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        self._running.add(process)
        if self._killed:
            kill(process)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        self._running.discard(process)

    def kill_all(self) -> None:
        """Now, and whatever is added later: the job is no longer ours."""
        self._killed = True
        for process in list(self._running):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    # Unreaped, so its id cannot have gone to another process.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()


def run(
    argv: list[str],
    *,
    timeout_s: float,
    group: Group,
    poll: Callable[[], None],
    on_output: OnOutput | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run ``argv`` to its end, calling ``poll`` at least every ``POLL_S``; what ``poll`` or
    ``on_output`` raises kills it. ``CommandTimeout`` after ``timeout_s``. A program that is not
    there ends with return code 127, as in a shell."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
    )
    group.add(process)
    try:
        attendance = _Attendance(process, argv[0], timeout_s)
        attendance.read(poll, on_output)
        return subprocess.CompletedProcess(
            argv, process.wait(), bytes(attendance.stdout), bytes(attendance.stderr)
        )
    finally:
        kill(process)
        process.wait()
        for stream in (process.stdout, process.stderr):
            cast(IO[bytes], stream).close()
        group.remove(process)


class _Attendance:
    """Reads what a program writes and watches the clock until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], program: str, timeout_s: float) -> None:
        self._process = process
        self._program = program
        self._timeout_s = timeout_s
        self._give_up_at = time.monotonic() + timeout_s
        self._ended_at: float | None = None
        self.stdout = bytearray()
        self.stderr = bytearray()

    def read(self, poll: Callable[[], None], on_output: OnOutput | None) -> None:
        with selectors.DefaultSelector() as selector:
            for stream, buffer in (
                (self._process.stdout, self.stdout),
                (self._process.stderr, self.stderr),
            ):
                selector.register(cast(IO[bytes], stream), selectors.EVENT_READ, buffer)
            while selector.get_map() and not self._ended():
                for key, _events in selector.select(POLL_S):
                    chunk = os.read(key.fd, READ_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    _keep(key.data, chunk)
                    if chunk and on_output is not None:
                        on_output(chunk)
                poll()
        # A program may close its output and go on working.
        while self._process.poll() is None:
            self._check_time()
            poll()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)

    def _ended(self) -> bool:
        """Over, and its output had time to arrive (a grandchild may hold the pipe open)."""
        self._check_time()
        if self._process.poll() is None:
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() > self._ended_at + DRAIN_S

    def _check_time(self) -> None:
        if time.monotonic() > self._give_up_at:
            raise CommandTimeout(self._program, self._timeout_s)


def _keep(buffer: bytearray, chunk: bytes) -> None:
    buffer += chunk
    if len(buffer) > OUTPUT_LIMIT_BYTES:
        del buffer[: len(buffer) - OUTPUT_LIMIT_BYTES]
