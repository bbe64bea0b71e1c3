"""What of a serial line is kept, and how it is put together with the host's log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vms.consoles.serial.ring import LIKELY_BYTES, SURE_BYTES, TAIL_BYTES, Ring, missed


def test_the_last_lines() -> None:
    ring = Ring(most_lines=3)
    for number in range(10):
        ring.add(f"line {number}\r\n".encode())
    assert ring.content() == b"line 7\r\nline 8\r\nline 9\r\n"
    ring.add(b"web login: ")
    assert ring.content() == b"line 7\r\nline 8\r\nline 9\r\nweb login: "


def test_a_cut_begins_with_a_whole_line() -> None:
    ring = Ring(most_bytes=20)
    ring.add(b"first line\nsecond line\nthird\n")
    assert ring.content() == b"second line\nthird\n"


def test_one_line_without_end_is_bounded_too() -> None:
    ring = Ring(most_bytes=100)
    for _ in range(50):
        ring.add(b"x" * 90)
    assert ring.content() == b"x" * 100
    assert len(ring._kept) <= 200


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_it_is_always_an_end_of_what_was_said(pieces: list[bytes]) -> None:
    ring = Ring(most_bytes=500, most_lines=7)
    for piece in pieces:
        ring.add(piece)
    said = b"".join(pieces)
    kept = ring.content()
    assert said.endswith(kept)
    assert len(kept) <= 500
    assert kept.count(b"\n") <= 7
    if len(said) <= 500 and said.count(b"\n") <= 7:
        assert kept == said


BOOT = b"".join(f"[{number:6}] line of a boot\r\n".encode() for number in range(200))


def test_the_log_alone() -> None:
    assert missed(BOOT, b"", b"") == BOOT


@given(st.integers(0, len(BOOT) - SURE_BYTES), st.integers(0, 3000))
def test_log_and_line_overlap(opened: int, more: int) -> None:
    """The line was opened when the log had ``opened`` bytes; it has more now."""
    log, live = BOOT[: opened + more], BOOT[opened:]
    whole = missed(log, b"", live) + live
    if more == 0 or more >= LIKELY_BYTES:
        assert whole == BOOT
    else:
        assert len(whole) - len(BOOT) <= more


def test_what_was_said_while_there_was_no_line() -> None:
    seen, gap, live = BOOT[:1000], BOOT[1000:2000], BOOT[2000:]
    tail = seen[-TAIL_BYTES:]
    assert missed(BOOT[:2000], tail, b"") == gap
    assert missed(BOOT, tail, live) == gap
    assert missed(BOOT[:1000], tail, b"") == b""


def test_a_log_that_turned_over_meanwhile_is_left_out() -> None:
    assert missed(BOOT[3000:], BOOT[:TAIL_BYTES], b"") == b""
