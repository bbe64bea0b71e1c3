"""Programs that a step runs: none may outlive its worker, and none may fill the memory.

Each gets a process group of its own, which is killed as a whole on cancel, on a lost lease and
on a time-out; ``setpriv --pdeathsig KILL`` has the kernel kill it when the worker is killed.
(``preexec_fn`` could do the same, but may deadlock in a process with threads.)
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import IO, cast

from jobs.errors import CommandTimeout

OUTPUT_LIMIT_BYTES = 64 * 1024  # of each stream; what came last is kept: errors come last
POLL_S = 0.25
DRAIN_S = 1.0  # for output that is still in the pipe after the end, or held by a grandchild

OnOutput = Callable[[bytes], None]


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
        output = _attend(process, argv[0], timeout_s, poll, on_output)
        return subprocess.CompletedProcess(argv, process.wait(), output[0], output[1])
    finally:
        kill(process)
        process.wait()
        for stream in (process.stdout, process.stderr):
            cast(IO[bytes], stream).close()
        group.remove(process)


def _attend(
    process: subprocess.Popen[bytes],
    program: str,
    timeout_s: float,
    poll: Callable[[], None],
    on_output: OnOutput | None,
) -> tuple[bytes, bytes]:
    kept = (bytearray(), bytearray())
    give_up_at = time.monotonic() + timeout_s
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream, buffer in zip((process.stdout, process.stderr), kept):
            selector.register(cast(IO[bytes], stream), selectors.EVENT_READ, buffer)
        while selector.get_map():
            for key, _events in selector.select(POLL_S):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                _keep(key.data, chunk)
                if on_output is not None:
                    on_output(chunk)
            poll()
            now = time.monotonic()
            if now > give_up_at:
                raise CommandTimeout(program, timeout_s)
            if ended_at is None and process.poll() is not None:
                ended_at = now
            if ended_at is not None and now > ended_at + DRAIN_S:
                break
    # A program may close its output and go on working.
    while process.poll() is None:
        poll()
        if time.monotonic() > give_up_at:
            raise CommandTimeout(program, timeout_s)
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
    return bytes(kept[0]), bytes(kept[1])


def _keep(buffer: bytearray, chunk: bytes) -> None:
    buffer += chunk
    if len(buffer) > OUTPUT_LIMIT_BYTES:
        del buffer[: len(buffer) - OUTPUT_LIMIT_BYTES]
