"""A machine's display for ``benchmarks/console.py``: bytes at full rate, echoes, or nothing.

    python -m benchmarks.console_display --unix PATH --port N

Listens on both; a process per connection, so that one does not slow another. Each takes the hello
of an RFB client; the first key event after it says what the connection is for. Also what the
benchmark's client sends, so that both halves are in one place.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import struct
from pathlib import Path

HELLO = b"RFB 003.008\n\x01\x01"  # version, security none, shared: passes every filter as it is
ECHO, IDLE = 1, 2  # larger keys: write that many bytes at a time, without end
KEY_BYTES = 8


def key(number: int) -> bytes:
    """RFB's KeyEvent."""
    return struct.pack(">BBxxI", 4, 1, number)


def exactly(line: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = line.recv(length - len(data))
        if not some:
            raise EOFError
        data += some
    return data


def show(line: socket.socket) -> None:
    exactly(line, len(HELLO))
    (wanted,) = struct.unpack(">4xI", exactly(line, KEY_BYTES))
    if wanted == IDLE:
        line.recv(1)
    elif wanted == ECHO:
        while True:
            line.sendall(exactly(line, KEY_BYTES))
    else:
        chunk = bytes(wanted)
        while True:
            line.sendall(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unix", required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listeners = selectors.DefaultSelector()
    Path(asked.unix).unlink(missing_ok=True)
    for family, address in (
        (socket.AF_UNIX, asked.unix),
        (socket.AF_INET, ("127.0.0.1", asked.port)),
    ):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
        listeners.register(listener, selectors.EVENT_READ)
    while True:
        for ready, _ in listeners.select():
            assert isinstance(ready.fileobj, socket.socket)
            line, _ = ready.fileobj.accept()
            if os.fork() == 0:
                if line.family == socket.AF_INET:
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    show(line)
                except (OSError, EOFError):
                    pass
                finally:
                    os._exit(0)
            line.close()


if __name__ == "__main__":
    main()
