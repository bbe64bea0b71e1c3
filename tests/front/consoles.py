"""A made-up machine behind the console's page: its ticket, its screen, its serial line.

Playwright answers for the server, so that no hypervisor is needed; what the page sends is kept.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import BrowserContext, Page, Route, WebSocketRoute, expect

from tests.front import seed
from vms.models import VM

Open = Callable[..., Page]
WIDTH, HEIGHT = 640, 400
QEMU_EXTENDED_KEYS = -258
FIXED = {0: 20, 3: 10, 4: 8, 5: 6}
# How long each frame of the page took, in ms.
WATCH_FRAMES = """() => {
  window.__frames = [];
  let last = performance.now();
  const look = (now) => {
    window.__frames.push(now - last);
    last = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""
# noVNC looks for a socket's methods in its class, Playwright's has them one class further up.
FLATTEN = """
const inherited = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(WebSocket.prototype));
delete inherited.constructor;
Object.defineProperties(WebSocket.prototype, inherited);
"""


@dataclass
class Key:
    keysym: int
    scancode: int  # 0: sent without
    down: bool


@dataclass
class Console:
    """``watch(context)`` before its page is opened; then look at ``keys``, ``typed``, ``asked``."""

    mode: str = "control"
    history: bytes = b"boot: 1\r\nboot: 2\r\nlogin: "
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    clipboard: list[str] = field(default_factory=list)
    typed: bytes = b""
    told: list[dict[str, Any]] = field(default_factory=list)
    line: WebSocketRoute | None = None
    screen: WebSocketRoute | None = None
    refusal: tuple[int, str] | None = None
    silent: bool = False  # no ticket comes: the page waits for it

    def watch(self, context: BrowserContext) -> None:
        context.route("**/api/v1/vms/*/console", self._ticket)
        context.route_web_socket("**/ws/console/vnc", self._open_screen)
        context.route_web_socket("**/ws/console/serial", self._open_line)
        context.route_web_socket("**/ws/console/serial/log", self._send_log)
        context.add_init_script(FLATTEN)

    def _ticket(self, route: Route) -> None:
        wanted = json.loads(route.request.post_data or "{}")
        self.asked.append(wanted)
        if self.silent:
            return
        if self.refusal:
            status, detail = self.refusal
            body = json.dumps({"detail": detail, "status": status})
            route.fulfill(status=status, content_type="application/problem+json", body=body)
            return
        host = route.request.url.split("/")[2]
        answer = {
            "url": f"ws://{host}/ws/console/{wanted['kind']}",
            "protocols": ["binary", "ticket.secret"],
            "kind": wanted["kind"],
            "mode": wanted.get("mode", self.mode),
            "expires_at": "2026-01-01T00:00:00Z",
        }
        route.fulfill(content_type="application/json", body=json.dumps(answer))

    # --- the screen: RFB 3.8 with raw pixels (RFC 6143) --------------------------------------

    def _open_screen(self, ws: WebSocketRoute) -> None:
        self.screen = ws
        server = _Rfb(self, ws)
        ws.on_message(server.heard)
        ws.send(b"RFB 003.008\n")

    # --- the serial line ---------------------------------------------------------------------

    def _open_line(self, ws: WebSocketRoute) -> None:
        self.line = ws
        ws.on_message(self._heard_line)
        mode = self.asked[-1].get("mode", self.mode)
        hello = {"type": "hello", "mode": mode, "history_bytes": len(self.history)}
        ws.send(json.dumps(hello))
        ws.send(self.history)
        ws.send(json.dumps({"type": "live"}))

    def _send_log(self, ws: WebSocketRoute) -> None:
        ws.send(json.dumps({"type": "log", "bytes": len(self.history)}))
        ws.send(self.history)
        ws.close(code=1000)

    def _heard_line(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.told.append(json.loads(message))
        else:
            self.typed += message

    def say(self, data: bytes) -> None:
        assert self.line
        self.line.send(data)

    def tell(self, **message: Any) -> None:
        assert self.line
        self.line.send(json.dumps(message))


class _Rfb:
    def __init__(self, console: Console, ws: WebSocketRoute) -> None:
        self.console = console
        self.ws = ws
        self.phase = 0
        self.pending = b""
        self.told_of_keys = False

    def heard(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        self.pending += message
        while self._step():
            pass

    def _take(self, length: int) -> bytes | None:
        if len(self.pending) < length:
            return None
        taken, self.pending = self.pending[:length], self.pending[length:]
        return taken

    def _step(self) -> bool:
        greetings = ((12, b"\x01\x01"), (1, struct.pack(">I", 0)), (1, _server_init()))
        if self.phase < len(greetings):
            length, answer = greetings[self.phase]
            if self._take(length) is None:
                return False
            self.phase += 1
            self.ws.send(answer)
            return True
        length = self._length()
        taken = self._take(length) if length else None
        if taken is None:
            return False
        self._message(taken)
        return True

    def _length(self) -> int:
        """Of the message that begins; 0: more is needed to tell."""
        if len(self.pending) < 8:
            return FIXED.get(self.pending[0], 0) if self.pending else 0
        kind = self.pending[0]
        if kind in FIXED:
            return FIXED[kind]
        if kind == 2:
            return int(4 + 4 * struct.unpack_from(">H", self.pending, 2)[0])
        if kind == 6:
            return int(8 + abs(struct.unpack_from(">i", self.pending, 4)[0]))
        if kind == 255:
            return 12
        raise AssertionError(f"message type {kind}")

    def _message(self, taken: bytes) -> None:
        kind = taken[0]
        if kind == 2:
            known = struct.unpack(f">{(len(taken) - 4) // 4}i", taken[4:])
            self.told_of_keys = QEMU_EXTENDED_KEYS not in known
        elif kind == 3 and not taken[1]:  # a whole frame is wanted
            self.ws.send(self._frame())
        elif kind == 4:
            _, down, keysym = struct.unpack(">BBxxI", taken)
            self.console.keys.append(Key(keysym, 0, bool(down)))
        elif kind == 6:
            self.console.clipboard.append(taken[8:].decode("latin-1"))
        elif kind == 255:
            down, keysym, scancode = struct.unpack(">HII", taken[2:])
            self.console.keys.append(Key(keysym, scancode, bool(down)))

    def _frame(self) -> bytes:
        rows = []
        for y in range(HEIGHT):
            light = y * 90 // HEIGHT
            row = bytes((60 + light, 40 + light // 2, 30, 0)) * WIDTH
            rows.append(row)
        picture = struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0) + b"".join(rows)
        rectangles = [picture]
        if not self.told_of_keys:
            self.told_of_keys = True
            rectangles.append(struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, QEMU_EXTENDED_KEYS))
        return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def _server_init() -> bytes:
    pixels = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    name = b"QEMU"
    return struct.pack(">HH", WIDTH, HEIGHT) + pixels + struct.pack(">I", len(name)) + name


def is_connected(page: Page, kind: str = "vnc") -> None:
    expect(page.locator(f"html[data-console=connected][data-console-kind={kind}]")).to_have_count(1)


def eventually(page: Page, check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 5
    while not check():
        assert time.monotonic() < end, what
        page.wait_for_timeout(30)


def open_console(open_page: Open, made: seed.Demo, vm: VM, **options: Any) -> Page:
    page = open_page(made.member, f"/machines/{vm.uuid}/console/", **options)
    is_connected(page)
    return page


def open_serial(open_page: Open, made: seed.Demo, vm: VM, **options: Any) -> Page:
    page = open_console(open_page, made, vm, **options)
    page.click("#tab-serial")
    is_connected(page, "serial")
    return page


def terminal_says(page: Page, text: str) -> None:
    expect(page.locator("#terminal .xterm-rows")).to_contain_text(text)


def scancodes(console: Console) -> list[int]:
    """Of the keys that were pressed, in their order."""
    return [key.scancode for key in console.keys if key.down]
