"""A client that asks for pongs and reads none costs nothing here.

uvicorn writes a pong for each ping, however much waits to be written already: whoever has one open
WebSocket could make the process grow without end. RFC 6455 (section 5.5.3) asks for an answer to
the latest ping only, so none is written while the client does not read.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


def _handle_ping(self: Any) -> None:
    pong = b"".join(self.conn.data_to_send())
    if self.writable.is_set():
        self.transport.write(pong)


def bound() -> None:
    """Once for each process that serves WebSockets; harmless when repeated."""
    WebSocketsSansIOProtocol.handle_ping = _handle_ping  # type: ignore[method-assign]
