"""Takes out of a guest's output what would act on the terminal of who looks, and not on the text.

A guest's bytes are hostile: they can set the window's title, write the clipboard (OSC 52), make a
link that says one thing and leads to another (OSC 8), or have the terminal answer with text that a
shell then runs (DECRQSS, title reports). Colours, cursor and screen modes pass. Sans-IO; bounded.
"""

from __future__ import annotations

import re

ESC = 0x1B
# Strings that end with ST or BEL: OSC, DCS, SOS, PM, APC (ECMA-48, 5.6).
STRING_BEGINS = b"]PX^_"
# A string is no longer than this, and ends where no string of use goes on: at a new line.
MOST_STRING_BYTES = 4096
MOST_SEQUENCE_BYTES = 64
_PLAIN = re.compile(rb"[^\x1b]+")


class Neutral:
    def __init__(self) -> None:
        self._held = bytearray()  # a sequence that is not complete
        self._string = 0  # bytes of a string that is being left out; 0: none
        self._after_escape = False  # within a string

    def feed(self, data: bytes) -> bytes:
        out = bytearray()
        position = 0
        while position < len(data):
            if self._string:
                position = self._in_string(data, position)
            elif self._held:
                self._in_sequence(data[position], out)
                position += 1
            elif plain := _PLAIN.match(data, position):
                out += plain[0]
                position = plain.end()
            else:
                self._held.append(ESC)
                position += 1
        return bytes(out)

    def _in_string(self, data: bytes, position: int) -> int:
        """Leave one byte of a string out, and see whether it was the last."""
        byte = data[position]
        self._string += 1
        ended = byte in b"\x07\x18\x1a\n" or (self._after_escape and byte == ord("\\"))
        if self._after_escape and not ended:
            # An escape that is no ST ends the string, and begins a sequence of its own.
            self._string, self._after_escape = 0, False
            self._held += bytes([ESC])
            return position
        self._after_escape = byte == ESC
        if ended or self._string > MOST_STRING_BYTES:
            self._string, self._after_escape = 0, False
        return position + 1

    def _in_sequence(self, byte: int, out: bytearray) -> None:
        held = self._held
        if byte in (0x18, 0x1A):  # CAN, SUB: it is called off
            held.clear()
            return
        if byte == ESC:
            held[:] = b"\x1b"
            return
        held.append(byte)
        if len(held) == 2:
            if byte in STRING_BEGINS:
                held.clear()
                self._string = 1
            elif byte != ord("[") and not 0x20 <= byte <= 0x2F:
                self._end(out)
            return
        final = 0x40 <= byte <= 0x7E if held[1] == ord("[") else byte >= 0x30
        if final or byte >= 0x80 or len(held) > MOST_SEQUENCE_BYTES:
            self._end(out)

    def _end(self, out: bytearray) -> None:
        # CSI … t moves the window, and has it tell its title as if it had been typed.
        window = self._held[1] == ord("[") and self._held[-1] == ord("t")
        if not window and len(self._held) <= MOST_SEQUENCE_BYTES:
            out += self._held
        self._held.clear()
