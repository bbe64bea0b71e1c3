"""The lean half of the ``websockify`` carrier: one process per connection, and no Django in it.

websockify forks for each connection, so what this process has loaded is paid for by all. Tickets,
permissions and targets are asked of the *broker* (``carrier_websockify``, which has Django) over a
unix socket; the broker answers with the mode and an already connected descriptor, and says when the
console must end. Run by ``manage.py websockify``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import select
import signal
import socket
import time
from typing import Any

from websockify.websocketproxy import ProxyRequestHandler
from websockify.websockifyserver import CompatibleWebSocket, WebSockifyServer

from vms.consoles.rfb import ClientFilter, ProtocolError

PATH = "/ws/console/vnc"
MAX_FRAME_BYTES = 2 << 20  # websockify takes quadratic time on large frames
RESERVED_BITS, MASKED = 0x70, 0x80
READ_BYTES = 65536
# Until the broker has said yes. Every connection costs a process here, also that of a stranger who
# sends its request line one letter at a time.
HANDSHAKE_S = 20
MAX_QUEUED_BYTES = 1 << 20  # towards the machine: then the client is not read any more
REPORT_S = 1.0


class BoundedWebSocket(CompatibleWebSocket):  # type: ignore[misc]
    """Refuses a frame that says it is larger than any that RFB needs, and a message that grows so
    large frame by frame: websockify itself keeps fragments without end. Also what it should
    refuse itself (RFC 6455, sections 5.1 and 5.2): no mask, and reserved bits."""

    def _decode_hybi(self, buf: Any) -> Any:
        if len(self._partial_msg) > MAX_FRAME_BYTES:
            raise ConnectionResetError("a message without end")
        if len(buf) >= 2 and (buf[0] & RESERVED_BITS or not buf[1] & MASKED):
            raise ConnectionResetError("not a frame of a client")
        if len(buf) >= 10 and buf[1] & 0x7F == 127:
            length = int.from_bytes(bytes(buf[2:10]), "big")
            if length > MAX_FRAME_BYTES:
                raise ConnectionResetError(f"a frame of {length} bytes")
        return super()._decode_hybi(buf)


class Broker:
    """Our connection to the process that has Django."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(path)

    def ask(self, **request: str) -> tuple[dict[str, Any], socket.socket | None]:
        self.sock.send(json.dumps(request).encode())
        data, descriptors, _, _ = socket.recv_fds(self.sock, 4096, 1)
        answer: dict[str, Any] = json.loads(data) if data else {"code": 4503, "reason": "broker"}
        return answer, socket.socket(fileno=descriptors[0]) if descriptors else None

    def report(self, **numbers: Any) -> None:
        self.sock.send(json.dumps(numbers).encode())

    def told(self) -> dict[str, Any]:
        data = self.sock.recv(4096)
        return json.loads(data) if data else {"code": 4503, "reason": "broker"}


class ConsoleHandler(ProxyRequestHandler):  # type: ignore[misc]
    SocketClass = BoundedWebSocket

    def setup(self) -> None:
        # The handshake as a whole: a timeout for each read would let it last for ever. This
        # process has only this connection, so the signal may simply end it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANDSHAKE_S)
        super().setup()

    def validate_connection(self) -> None:
        offered = self.headers.get("Sec-WebSocket-Protocol", "")
        path = self.path.split("?")[0].rstrip("/")
        # A site below a path: its proxy may leave that on.
        if not path.endswith(PATH) or "binary" not in offered:
            raise self.server.EClose("not a console")

    def new_websocket_client(self) -> None:
        offered = [word.strip() for word in self.headers["Sec-WebSocket-Protocol"].split(",")]
        secret = next((w[len("ticket.") :] for w in offered if w.startswith("ticket.")), "")
        broker = Broker(self.server.broker)
        answer, target = broker.ask(
            ticket=secret,
            kind=PATH.rsplit("/", 1)[-1],
            origin=self.headers.get("Origin", ""),
            host=self.headers.get("Host", ""),
            cookie=self.headers.get("Cookie", ""),
            peer=self.client_address[0],
            forwarded=self.headers.get("X-Forwarded-For", ""),
        )
        if target is None:
            raise self.CClose(answer["code"], answer["reason"])
        signal.alarm(0)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._pump(target, broker, ClientFilter(view_only=answer["mode"] == "view"))
        finally:
            target.close()

    def log_message(self, *_: Any) -> None:
        """Nothing: the broker writes down who opened what."""

    def _pump(self, target: socket.socket, broker: Broker, client: ClientFilter) -> None:
        """Carry bytes until a side closes or the broker says so. Raises CClose."""
        target.settimeout(0)
        to_target = bytearray()
        numbers = {"in": 0, "out": 0}
        reported, blocked = time.monotonic(), False
        while True:
            ready, writable = self._wait(target, broker.sock, to_target, blocked=blocked)
            if broker.sock in ready:
                told = broker.told()
                raise self.CClose(told["code"], told["reason"])
            if self.request in writable:
                blocked = self.send_frames()
            if self.request in ready:
                self._from_client(client, to_target, numbers)
            if to_target:
                self._to_target(target, to_target)
            if target in ready:
                blocked = self._from_target(target, numbers)
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                broker.report(**numbers)

    def _wait(
        self, target: socket.socket, broker: socket.socket, to_target: bytearray, *, blocked: bool
    ) -> tuple[list[Any], list[Any]]:
        """What can be read and written now. A side that cannot take more stops the other."""
        readers: list[Any] = [broker]
        writers: list[Any] = []
        (writers if blocked else readers).append(self.request if blocked else target)
        if len(to_target) < MAX_QUEUED_BYTES:
            readers.append(self.request)
        if to_target:
            writers.append(target)
        ready, writable, _ = select.select(readers, writers, [], REPORT_S)
        return ready, writable

    def _from_client(self, client: ClientFilter, queue: bytearray, numbers: dict[str, int]) -> None:
        buffers, closed = self.recv_frames()
        for data in buffers:
            numbers["in"] += len(data)
            try:
                queue += client.feed(data)
            except ProtocolError as error:
                raise self.CClose(4400, "protocol") from error
        if closed:
            raise self.CClose(1000, "client")

    def _to_target(self, target: socket.socket, queue: bytearray) -> None:
        try:
            sent = target.send(queue)
        except BlockingIOError:
            return
        except OSError as error:
            raise self.CClose(4410, "stopped") from error
        del queue[:sent]

    def _from_target(self, target: socket.socket, numbers: dict[str, int]) -> bool:
        try:
            data = target.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            raise self.CClose(4410, "stopped")
        numbers["out"] += len(data)
        return bool(self.send_frames([data]))


class ConsoleServer(WebSockifyServer):  # type: ignore[misc]
    def __init__(self, *, broker: str, listen_host: str, listen_port: int) -> None:
        self.broker = broker
        self._parent = os.getppid()
        super().__init__(ConsoleHandler, listen_host=listen_host, listen_port=listen_port)
        self.only_upgrade = True
        self.auth_plugin = self.token_plugin = None  # the broker decides

    def poll(self) -> None:
        """Called about once a second: end with the broker."""
        if os.getppid() != self._parent:
            raise self.Terminate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    multiprocessing.set_start_method("fork")  # 3.14's default would load everything anew
    server = ConsoleServer(
        broker=options.broker, listen_host=options.listen, listen_port=options.port
    )
    server.start_server()


if __name__ == "__main__":
    main()
