"""A display that asks for a password, opened here, so that no browser ever sees the password.

RFC 6143, sections 7.1 and 7.2.2. ``sign_in`` is the client's half towards the display; ``Greeting``
the server's half towards whoever looks, whom nothing is asked. No I/O of its own beyond that.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from vms.consoles.rfb import SECURITY_NONE, SECURITY_VNC, VERSION_LENGTH

VERSION = b"RFB 003.008\n"
CHALLENGE_LENGTH = 16
KEY_LENGTH = 8
READ_BYTES = 256


class NotTheDisplay(Exception):  # noqa: N818 - what was found out
    """It does not take this password, or asks for none: it may be another machine's."""


class Line(Protocol):
    async def read(self, most: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


async def sign_in(line: Line, password: str) -> None:
    """NotTheDisplay; OSError when the stream broke. Afterwards the display waits for ClientInit.

    One that asks for no password is refused, too: only the password tells whose screen it is."""
    said = bytearray()

    async def take(length: int) -> bytes:
        while len(said) < length:
            data = await line.read(READ_BYTES)
            if not data:
                raise NotTheDisplay("it closed the connection")
            said.extend(data)
        taken = bytes(said[:length])
        del said[:length]
        return taken

    if await take(VERSION_LENGTH) != VERSION:
        raise NotTheDisplay("it does not speak RFB 3.8")
    await line.write(VERSION)
    offered = await take((await take(1))[0])
    if SECURITY_VNC not in offered:
        raise NotTheDisplay(f"it asks for no password (security types {list(offered)})")
    await line.write(bytes([SECURITY_VNC]))
    await line.write(response(await take(CHALLENGE_LENGTH), password))
    if await take(4) != bytes(4):
        raise NotTheDisplay("it refuses the password")
    if said:
        raise NotTheDisplay("it says more than was asked")


def response(challenge: bytes, password: str) -> bytes:
    """DES of the challenge in two blocks; of each byte of the key VNC takes the bits in reverse."""
    key = password.encode("latin-1")[:KEY_LENGTH].ljust(KEY_LENGTH, b"\0")
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # Three times the same key is single DES. ECB is what the protocol says.
    cipher = Cipher(TripleDES(turned * 3), modes.ECB())  # noqa: S305
    step = cipher.encryptor()
    return step.update(challenge) + step.finalize()


class Greeting:
    """What a client hears and says until its ClientInit. Feed it what the client sent (as
    ``rfb.ClientFilter`` let it pass)."""

    def __init__(self) -> None:
        self.answer = bytearray(VERSION)  # to be sent to the client; whoever sends it clears it
        self._heard = bytearray()
        self._version = b""
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """What of it goes on to the display."""
        if self.over:
            return data
        self._heard += data
        if not self._version and len(self._heard) >= VERSION_LENGTH:
            self._version = bytes(self._heard[:VERSION_LENGTH])
            del self._heard[:VERSION_LENGTH]
            self.answer += bytes([1, SECURITY_NONE])
        if not self._version or not self._heard:
            return b""
        del self._heard[:1]  # the one that was offered
        if self._version == VERSION:  # 3.7 says nothing after None
            self.answer += bytes(4)
        self.over = True
        rest = bytes(self._heard)
        self._heard.clear()
        return rest
