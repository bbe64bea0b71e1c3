"""An open console holds no thread and no database connection while its carrier carries bytes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import console, console_display

FEW, MANY = 3, 25


@pytest.fixture(scope="module")
def carriers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, console.Subject]]:
    """Both, as ``scripts/up`` starts them, on a database in a file that can be counted."""
    folder = tmp_path_factory.mktemp("pumps")
    with console.everything(folder, only=("asgi", "websockify")) as (subjects, _):
        yield {subject.name: subject for subject in subjects}


def held(subject: console.Subject) -> tuple[int, int]:
    """(threads, descriptors of the database) of the carrier's processes that have Django."""
    threads = connections = 0
    for process in (Path(f"/proc/{pid}") for pid in subject.pids()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            if b"websockify_server" in (process / "cmdline").read_bytes():
                assert len(list((process / "task").iterdir())) == 1, "a thread in the lean half"
            else:
                threads += len(list((process / "task").iterdir()))
            for link in (process / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    connections += "sqlite3" in str(link.readlink())
    return threads, connections


@pytest.mark.parametrize("name", ["asgi", "websockify"])
def test_what_is_held_does_not_grow(carriers: dict[str, console.Subject], name: str) -> None:
    subject = carriers[name]
    clients = []

    def open_to(count: int) -> None:
        while len(clients) < count:
            clients.append(subject.client())
            clients[-1].wants(console_display.ECHO)
        for client in clients:
            client.trip_us()

    def close(count: int) -> None:
        for _ in range(count):
            clients.pop().close()

    stop = threading.Event()

    def pump() -> None:
        while not stop.is_set():
            for client in clients:
                client.trip_us()

    try:
        open_to(MANY)  # as many as the pools for all consoles together ever need
        close(MANY - FEW)
        few = held(subject)
        open_to(MANY)
        pumping = threading.Thread(target=pump)
        pumping.start()
        # What opening a console takes for a moment is given back; what stays is what counts.
        end = time.monotonic() + 10
        while True:
            many = held(subject)
            if (many[0] <= few[0] and many[1] <= few[1]) or time.monotonic() > end:
                break
            time.sleep(0.2)
        stop.set()
        pumping.join(10)
        assert many[0] <= few[0], "threads"
        assert many[1] <= few[1], "connections of the database"
    finally:
        close(len(clients))
