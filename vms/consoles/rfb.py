"""The client-to-server half of RFB, parsed without I/O, so that every carrier can use it.

Source: RFC 6143 (The Remote Framebuffer Protocol) and the community's registry (rfbproto) for the
message types that QEMU and noVNC add. View-only means view-only *here*: what a browser says of
itself counts for nothing. Of a viewer only SetPixelFormat, SetEncodings,
FramebufferUpdateRequest and fences pass; of a person with control, everything that QEMU knows.
Both connect shared, or QEMU would drop the others.
"""

from __future__ import annotations

import struct
from enum import Enum

VERSION_LENGTH = 12  # b"RFB 003.008\n"
VERSIONS = (b"RFB 003.007\n", b"RFB 003.008\n")
SECURITY_NONE = 1
SECURITY_VNC = 2
VNC_RESPONSE_LENGTH = 16

SET_PIXEL_FORMAT = 0
SET_ENCODINGS = 2
FRAMEBUFFER_UPDATE_REQUEST = 3
KEY_EVENT = 4
POINTER_EVENT = 5
CLIENT_CUT_TEXT = 6
ENABLE_CONTINUOUS_UPDATES = 150
FENCE = 248
XVP = 250
SET_DESKTOP_SIZE = 251
QEMU = 255

VIEWER_MAY_SEND = frozenset({SET_PIXEL_FORMAT, SET_ENCODINGS, FRAMEBUFFER_UPDATE_REQUEST, FENCE})

FIXED_LENGTHS = {
    SET_PIXEL_FORMAT: 20,
    FRAMEBUFFER_UPDATE_REQUEST: 10,
    KEY_EVENT: 8,
    POINTER_EVENT: 6,
    ENABLE_CONTINUOUS_UPDATES: 10,
    XVP: 4,
}
QEMU_KEY_EVENT = 0
QEMU_AUDIO = 1
QEMU_AUDIO_SET_FORMAT = 2

MAX_ENCODINGS = 256
MAX_CUT_TEXT = 1 << 20  # bytes of clipboard that one message may carry
MAX_SCREENS = 64
MAX_FENCE = 64


class ProtocolError(Exception):
    """The client does not speak RFB as we know it: close the connection."""


class _Phase(Enum):
    VERSION = 1
    SECURITY = 2
    VNC_RESPONSE = 3
    CLIENT_INIT = 4
    MESSAGES = 5


class ClientFilter:
    """Feed it what a client sent; it returns what the server may get.

    Memory is bounded by the largest message that it accepts (a clipboard text); anything larger,
    and any message whose length it cannot know, raises ProtocolError.
    """

    def __init__(self, *, view_only: bool) -> None:
        self.view_only = view_only
        self._phase = _Phase.VERSION
        self._pending = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` (and of what was kept before) goes on to the server."""
        self._pending += data
        passed: list[bytes] = []
        start = 0
        view = self._pending
        while True:
            length = self._next_length(start)
            if length is None or len(view) - start < length:
                break
            message = bytes(view[start : start + length])
            start += length
            passed.append(self._take(message))
        if start:
            del self._pending[:start]
        return b"".join(passed)

    def _next_length(self, at: int) -> int | None:
        """Length in bytes of the message that begins at ``at``; None: more is needed to tell."""
        match self._phase:
            case _Phase.VERSION:
                return VERSION_LENGTH
            case _Phase.SECURITY | _Phase.CLIENT_INIT:
                return 1
            case _Phase.VNC_RESPONSE:
                return VNC_RESPONSE_LENGTH
            case _Phase.MESSAGES:
                return self._message_length(at)

    def _message_length(self, at: int) -> int | None:
        have = len(self._pending) - at
        if have < 1:
            return None
        kind = self._pending[at]
        if kind in FIXED_LENGTHS:
            return FIXED_LENGTHS[kind]
        match kind:
            case 2:  # SET_ENCODINGS
                return self._counted(
                    at, have, head=4, offset=2, form=">H", unit=4, most=MAX_ENCODINGS
                )
            case 6:  # CLIENT_CUT_TEXT
                return self._cut_text_length(at, have)
            case 248:  # FENCE
                return self._counted(at, have, head=9, offset=8, form=">B", unit=1, most=MAX_FENCE)
            case 251:  # SET_DESKTOP_SIZE
                return self._counted(
                    at, have, head=8, offset=6, form=">B", unit=16, most=MAX_SCREENS
                )
            case 255:  # QEMU
                return self._qemu_length(at, have)
        raise ProtocolError(f"unknown message type {kind}")

    def _counted(
        self, at: int, have: int, *, head: int, offset: int, form: str, unit: int, most: int
    ) -> int | None:
        if have < head:
            return None
        (count,) = struct.unpack_from(form, self._pending, at + offset)
        if count > most:
            raise ProtocolError(f"message type {self._pending[at]} with {count} items")
        return head + int(count) * unit

    def _cut_text_length(self, at: int, have: int) -> int | None:
        if have < 8:
            return None
        (length,) = struct.unpack_from(">i", self._pending, at + 4)
        size = abs(int(length))  # negative: the extended clipboard's form
        if size > MAX_CUT_TEXT:
            raise ProtocolError(f"clipboard of {size} bytes")
        return 8 + size

    def _qemu_length(self, at: int, have: int) -> int | None:
        if have < 2:
            return None
        sub = self._pending[at + 1]
        if sub == QEMU_KEY_EVENT:
            return 12
        if sub != QEMU_AUDIO:
            raise ProtocolError(f"unknown QEMU message {sub}")
        if have < 4:
            return None
        (operation,) = struct.unpack_from(">H", self._pending, at + 2)
        return 10 if operation == QEMU_AUDIO_SET_FORMAT else 4

    def _take(self, message: bytes) -> bytes:
        """Move on by one message; returns what of it may pass."""
        match self._phase:
            case _Phase.VERSION:
                if message not in VERSIONS:
                    raise ProtocolError("not RFB 3.7 or 3.8")
                self._phase = _Phase.SECURITY
            case _Phase.SECURITY:
                if message[0] == SECURITY_NONE:
                    self._phase = _Phase.CLIENT_INIT
                elif message[0] == SECURITY_VNC:
                    self._phase = _Phase.VNC_RESPONSE
                else:
                    raise ProtocolError(f"security type {message[0]}")
            case _Phase.VNC_RESPONSE:
                self._phase = _Phase.CLIENT_INIT
            case _Phase.CLIENT_INIT:
                self._phase = _Phase.MESSAGES
                return b"\x01"  # shared, whatever was asked
            case _Phase.MESSAGES:
                if self.view_only and message[0] not in VIEWER_MAY_SEND:
                    return b""
        return message
