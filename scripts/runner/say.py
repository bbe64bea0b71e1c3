"""Steps on the terminal: what is being done, for how long, and what to do when it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TTY = sys.stdout.isatty()
QUIET_S = 10  # without a terminal, a sign of life this often
END_S = 10  # what a command gets to end in, when we are stopped
_paused = threading.Event()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No line of ours is written meanwhile: sudo asks for a password."""
    _paused.set()
    try:
        if TTY:
            print(flush=True)
        yield
    finally:
        _paused.clear()


class StepFailed(Exception):  # noqa: N818
    """A step that could not be done; ``advice`` says what to do about it."""

    def __init__(self, what: str, advice: str = "", *, log: Path | None = None) -> None:
        super().__init__(what)
        self.what, self.advice, self.log = what, advice, log


class Step:
    """One line: ``▸ Building the tiny guest … 12 s`` and, at its end, ``✓ … 14 s``."""

    def __init__(self, title: str) -> None:
        self.title, self.detail = title, ""
        self.began = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def say(self, detail: str) -> None:
        self.detail = detail.strip()[:100]

    def _line(self, mark: str) -> str:
        gone = int(time.monotonic() - self.began)
        detail = f": {self.detail}" if self.detail else ""
        return f"{mark} {self.title}{detail}" + (f"  {gone} s" if gone else "")

    def _tick(self) -> None:
        pause = 0.2 if TTY else QUIET_S
        while not self._over.wait(pause):
            if _paused.is_set():
                continue
            with self._lock:
                end = "\r" if TTY else "\n"
                sys.stdout.write(("\x1b[2K" if TTY else "") + self._line("▸")[:110] + end)
                sys.stdout.flush()

    def __enter__(self) -> Step:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            mark = "✗" if kind else "✓"
            print(("\x1b[2K" if TTY else "") + self._line(mark), flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    step: Step,
    log: Path,
    advice: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    shown: bool = True,
) -> str:
    """Run a command into ``log``, its latest line as the step's detail; returns the last one.

    StepFailed when it does not end with 0. It ends with us, should we be stopped.
    """
    last = ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        out.write(f"$ {' '.join(map(str, argv))}\n")
        out.flush()
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=cwd,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                out.write(line)
                last = line.strip() or last
                if shown and line.strip():
                    step.say(line)
            process.wait()
        except BaseException:
            _end(process)
            raise
    step.say("")
    if process.returncode:
        raise StepFailed(
            f"{Path(str(argv[0])).name} ended with code {process.returncode}", advice, log=log
        )
    return last


def _end(process: subprocess.Popen[str]) -> None:
    # Another's process (sudo) is not ours to signal; Ctrl+C has reached it by the terminal.
    with contextlib.suppress(PermissionError):
        process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(PermissionError):
            process.kill()


@contextlib.contextmanager
def failures_told(program: str) -> Iterator[None]:
    """Turn StepFailed and Ctrl+C into a clear last word and an exit code."""
    try:
        yield
    except StepFailed as failed:
        print(f"\n{program}: {failed.what}", file=sys.stderr)
        if failed.log and failed.log.exists():
            tail = failed.log.read_text(errors="replace").splitlines()[-12:]
            print(f"  the last lines of {failed.log}:", file=sys.stderr)
            for line in tail:
                print(f"    {line}", file=sys.stderr)
        if failed.advice:
            print(f"  What to do: {failed.advice}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{program}: stopped by you", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"\n{program}: {error.strerror}{where}", file=sys.stderr)
        if error.errno == errno.ENOSPC:
            print("  What to do: make room on that disk, then try again", file=sys.stderr)
        sys.exit(1)
