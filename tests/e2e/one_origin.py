"""``python -m tests.e2e.one_origin PORT WEB_PORT CONSOLE_PORT``: one origin in front of both.

What nginx does in a real site: screens (``/ws/console/vnc``) go to their carrier, all else to the
site. A connection is given to one of them by its first request; browsers open a new one for each
WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

MAX_HEAD = 65536
CHUNK = 65536


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, web: int, console: int
) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b" ", 2)
        port = console if words[1].startswith(b"/ws/console/vnc") else web
        there, back = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
        writer.close()
        return
    back.write(head)
    await asyncio.gather(_pour(reader, back), _pour(there, writer))
    for end in (back, writer):
        end.close()


async def main(port: int, web: int, console: int) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, web, console),
        "127.0.0.1",
        port,
        limit=MAX_HEAD,
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
