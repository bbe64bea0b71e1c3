"""A guest's output in one's own terminal: text and colours, nothing that acts on it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmweb_cli.neutral import MOST_STRING_BYTES, Neutral

PASSES = [
    b"web login: ",
    "grüß Gott 你好".encode(),
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[?1049h\x1b[2J\x1b[10;20Hvim",
    b"\x1b(B\x1b7\x1b8\x1bM\x1b=",
    bytes(range(0x20)).replace(b"\x1b", b""),
]
ATTACKS = [
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1b]52;c;cm0gLXJmIH4K\x07",
    b"\x1b]8;;https://evil.test\x1b\\",
    b'\x1bP$q"p\x1b\\',
    b"\x1b_Gi=1;AAAA\x1b\\",
    b"\x1b^private\x1b\\",
    b"\x1bXstring\x1b\\",
    b"\x1b[21t",
    b"\x1b[3;0;0t",
]


@pytest.mark.parametrize("text", PASSES)
def test_what_a_terminal_shows_passes(text: bytes) -> None:
    assert Neutral().feed(text) == text


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_what_acts_on_the_terminal_does_not(attack: bytes, piece: int) -> None:
    neutral = Neutral()
    text = b"before" + attack + b"after"
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    assert b"".join(neutral.feed(part) for part in pieces) == b"beforeafter"


def test_a_string_without_end_swallows_little() -> None:
    neutral = Neutral()
    assert neutral.feed(b"\x1b]0;" + b"x" * 100 + b"\nnext line") == b"next line"
    swallowed = neutral.feed(b"\x1b]0;" + b"y" * 2 * MOST_STRING_BYTES)
    assert len(swallowed) >= MOST_STRING_BYTES - 8


WORDS = st.sampled_from(
    [b"\x1b", b"]", b"P", b"[", b"52;", b"t", b"\\", b"\x07", b"\x18", b"m", b"\n", b"x", b"\xff"]
)


@given(st.lists(st.one_of(WORDS, st.binary(max_size=5)), max_size=60), st.integers(1, 7))
def test_whatever_comes_no_string_begins(parts: list[bytes], piece: int) -> None:
    text = b"".join(parts)
    neutral, at_once = Neutral(), Neutral()
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    shown = b"".join(neutral.feed(part) for part in pieces)
    assert shown == at_once.feed(text)
    assert not re.search(rb"\x1b[\]PX^_]", shown)
    assert not re.search(rb"\x1b\[[0-?]*[ -/]*t", shown)
    if b"\x1b" not in text:
        assert shown == text
