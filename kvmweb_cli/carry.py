"""A machine's screen on a port of this machine: ``kvmweb console NAME --vnc``.

Each connection takes a ticket of its own and becomes one WebSocket. The port is on loopback, and
where the kernel tells whose a connection is (Linux), other people of this machine are refused: a
VNC client has no password to give.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kvmweb_cli.api import Api
from kvmweb_cli.errors import CommandError

HOST = "127.0.0.1"
READ_BYTES = 64 * 1024
ROOT_UID = 0


class Carrier:
    def __init__(self, api: Api, vm: dict[str, Any], *, mode: str | None, take: bool) -> None:
        self._api, self._vm = api, vm
        self._mode, self._take = mode, take

    def run(self, port: int) -> None:
        """Until Ctrl+C. ``port`` 0: a free one. CommandError."""
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve(port))

    async def _serve(self, port: int) -> None:
        try:
            server = await asyncio.start_server(self._one, HOST, port)
        except OSError as error:
            raise CommandError(f"Port {port} cannot be used: {error.strerror}") from error
        port = server.sockets[0].getsockname()[1]
        sys.stderr.write(
            f"The screen of {self._vm['name']} is on {HOST}:{port} until Ctrl+C. For example:\n"
            f"  vncviewer {HOST}::{port}\n"
            f"  remote-viewer vnc://{HOST}:{port}\n"
        )
        sys.stderr.flush()
        async with server:
            await server.serve_forever()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not _is_ours(writer):
                sys.stderr.write("Another user of this machine was refused.\n")
                return
            ticket = await asyncio.to_thread(
                self._api.ticket, self._vm["uuid"], "vnc", mode=self._mode, take=self._take
            )
            if ticket["mode"] == "view":
                sys.stderr.write("You look: what you type goes nowhere.\n")
            async with connect(
                ticket["url"], subprotocols=ticket["protocols"], compression=None, max_size=None
            ) as screen:
                await _pump(screen, reader, writer)
        except CommandError as error:
            sys.stderr.write(f"{error}\n")
        except (InvalidHandshake, OSError) as error:
            sys.stderr.write(f"The connection failed: {error}\n")
        finally:
            sys.stderr.flush()
            writer.close()


async def _pump(
    screen: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async def to_viewer() -> None:
        async for frame in screen:
            writer.write(frame if isinstance(frame, bytes) else frame.encode())
            await writer.drain()

    async def to_screen() -> None:
        while data := await reader.read(READ_BYTES):
            await screen.send(data)

    tasks = [asyncio.ensure_future(to_viewer()), asyncio.ensure_future(to_screen())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with contextlib.suppress(ConnectionClosed, OSError):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if screen.close_reason not in (None, "", "client"):
        sys.stderr.write(f"The site ended it: {screen.close_reason}.\n")


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether whoever connected is this command's own user (or root). True where the kernel does
    not tell."""
    host, port = writer.get_extra_info("peername")[:2]
    uid = _owner(host, port)
    return uid is None or uid in (os.getuid(), ROOT_UID)


def _owner(host: str, port: int) -> int | None:
    """The user of the socket with this address, by /proc/net/tcp (proc(5)): addresses there are
    the network's bytes, read as a number of this machine."""
    words = bytes(int(part) for part in host.split("."))
    wanted = f"{int.from_bytes(words, sys.byteorder):08X}:{port:04X}"
    try:
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    for row in rows:
        fields = row.split()
        if fields[1] == wanted:
            return int(fields[7])
    return None
