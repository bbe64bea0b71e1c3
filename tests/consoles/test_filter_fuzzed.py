"""The filter against whatever hypothesis thinks of: messages, halves of them, flipped bits, noise.

Three things hold for every stream: nothing but ProtocolError is raised; what passes is read by an
independent reader as whole messages that this person may send; and where the stream is cut
changes nothing.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.consoles.test_filter_what_viewers_send import (
    ACTS,
    CUT_TEXT,
    ENCODINGS,
    EXTENDED_CUT_TEXT,
    FENCE,
    HELLO,
    HELLO_PASSED,
    KEY,
    SEEN,
    UPDATE,
)
from vms.consoles import rfb

VIEWER_TYPES = {0, 2, 3, 248}
ALL_TYPES = {0, 2, 3, 4, 5, 6, 150, 248, 250, 251, 255}

whole = st.sampled_from([*ACTS, *SEEN])
half = st.builds(lambda message, at: message[:at], whole, st.integers(0, 20))
flipped = st.builds(
    lambda message, at, bit: bytes(
        byte ^ (1 << bit) if index == at % len(message) else byte
        for index, byte in enumerate(message)
    ),
    whole,
    st.integers(0, 40),
    st.integers(0, 7),
)
counted = st.builds(
    lambda head, count: head + struct.pack(">I", count),
    st.sampled_from([b"\x06\0\0\0", b"\x02\0", b"\xf8\0\0\0\0\0\0\0", b"\xfb\0\0\0\0\0"]),
    st.integers(0, 2**32 - 1),
)
noise = st.binary(max_size=40)
streams = st.lists(st.one_of(whole, whole, half, flipped, counted, noise), max_size=12).map(
    b"".join
)
hellos = st.one_of(st.just(HELLO), st.just(b"RFB 003.007\n\x02" + bytes(17)), noise)


def run(pieces: list[bytes], *, view_only: bool) -> tuple[bytes, bool]:
    """(what passed, whether it ended with a protocol error)."""
    client = rfb.ClientFilter(view_only=view_only)
    passed = b""
    try:
        for piece in pieces:
            passed += client.feed(piece)
    except rfb.ProtocolError:
        return passed, True
    return passed, False


def types_of(stream: bytes) -> list[int]:
    """The types of the messages in what a server gets after the hello (RFC 6143, section 7.5, and
    rfbproto), read without any of the filter's code. Fails on half a message."""
    found = []
    while stream:
        kind = stream[0]
        if kind == 2:
            length = 4 + 4 * int.from_bytes(stream[2:4], "big")
        elif kind == 6:
            length = 8 + abs(int.from_bytes(stream[4:8], "big", signed=True))
        elif kind == 248:
            length = 9 + stream[8]
        elif kind == 251:
            length = 8 + 16 * stream[6]
        elif kind == 255 and stream[1] == 1:
            length = 10 if stream[2:4] == b"\0\2" else 4
        else:
            length = {0: 20, 3: 10, 4: 8, 5: 6, 150: 10, 250: 4, 255: 12}[kind]
        assert len(stream) >= length, f"half a message of type {kind} has passed"
        found.append(kind)
        stream = stream[length:]
    return found


@given(stream=streams, view_only=st.booleans())
@example(stream=CUT_TEXT[:-1] + KEY, view_only=True)
@example(stream=EXTENDED_CUT_TEXT[:9] + KEY * 2, view_only=True)
@example(stream=ENCODINGS[:-3] + KEY, view_only=True)
@example(stream=FENCE[:-1] + KEY, view_only=True)
def test_only_whole_messages_that_this_person_may_send_pass(stream: bytes, view_only: bool) -> None:
    passed, _ = run([HELLO, stream], view_only=view_only)
    assert passed.startswith(HELLO_PASSED)
    types = types_of(passed[len(HELLO_PASSED) :])
    assert set(types) <= (VIEWER_TYPES if view_only else ALL_TYPES)


@given(hello=hellos, stream=streams, view_only=st.booleans())
def test_where_the_stream_is_cut_changes_nothing(
    hello: bytes, stream: bytes, view_only: bool
) -> None:
    """At every byte: the same bytes pass, and the same streams end it."""
    sent = hello + stream
    reference, fails = run([bytes([byte]) for byte in sent], view_only=view_only)
    for cut in range(len(sent) + 1):
        passed, failed = run([sent[:cut], sent[cut:]], view_only=view_only)
        assert failed == fails
        # What stood before a fault within one piece does not pass: the connection ends there.
        assert reference.startswith(passed) if fails else passed == reference


@given(hello=hellos, stream=st.binary(max_size=300), view_only=st.booleans())
def test_after_a_fault_nothing_passes(hello: bytes, stream: bytes, view_only: bool) -> None:
    client = rfb.ClientFilter(view_only=view_only)
    failed = False
    for piece in (hello, stream, UPDATE, KEY):
        try:
            passed = client.feed(piece)
        except rfb.ProtocolError:
            failed = True
            continue
        assert not (failed and passed)


@given(
    count=st.integers(0, 2**32 - 1),
    head=st.sampled_from([b"\x06\0\0\0", b"\x02\0", b"\xf8" + bytes(7), b"\xfb" + bytes(5)]),
    view_only=st.booleans(),
)
def test_a_message_that_says_it_is_large_is_not_waited_for(
    count: int, head: bytes, view_only: bool
) -> None:
    client = rfb.ClientFilter(view_only=view_only)
    client.feed(HELLO)
    try:
        client.feed(head + struct.pack(">I", count))
        for _ in range(4):
            client.feed(bytes(1 << 18))
    except rfb.ProtocolError:
        return
    assert len(client._pending) <= rfb.MAX_CUT_TEXT + 8


@pytest.mark.parametrize("view_only", [True, False])
def test_the_largest_clipboard_in_single_bytes_is_bounded(view_only: bool) -> None:
    client = rfb.ClientFilter(view_only=view_only)
    client.feed(HELLO)
    client.feed(struct.pack(">Bxxxi", 6, rfb.MAX_CUT_TEXT))
    for _ in range(rfb.MAX_CUT_TEXT - 1):
        assert client.feed(b"x") == b""
    assert len(client._pending) == rfb.MAX_CUT_TEXT + 7
    passed = client.feed(b"x" + UPDATE)
    assert passed.endswith(UPDATE)
    assert len(passed) == len(UPDATE) + (0 if view_only else rfb.MAX_CUT_TEXT + 8)
    assert len(client._pending) == 0
