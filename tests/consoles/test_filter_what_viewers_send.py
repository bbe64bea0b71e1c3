"""View-only is enforced in the carrier: a viewer's keys and clicks never reach the machine."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vms.consoles import rfb

HELLO = b"RFB 003.008\n" + b"\x01" + b"\x00"  # version, security none, not shared
HELLO_PASSED = b"RFB 003.008\n" + b"\x01" + b"\x01"  # shared, whatever was asked
PIXEL_FORMAT = bytes([0, 0, 0, 0]) + bytes(16)
ENCODINGS = struct.pack(">BxHii", 2, 2, 7, -239)
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 640, 480)
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 10)
CUT_TEXT = struct.pack(">Bxxxi", 6, 5) + b"hello"
EXTENDED_CUT_TEXT = struct.pack(">Bxxxi", 6, -8) + bytes(8)
CONTINUOUS = bytes([150, 1]) + bytes(8)
FENCE = bytes([248, 0, 0, 0, 0, 0, 0, 1, 2]) + b"ab"
XVP = bytes([250, 0, 1, 2])
DESKTOP_SIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + bytes(16)
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E)
QEMU_AUDIO_ON = struct.pack(">BBH", 255, 1, 0)
QEMU_AUDIO_FORMAT = struct.pack(">BBHBBI", 255, 1, 2, 0, 2, 44100)

SEEN = [PIXEL_FORMAT, ENCODINGS, UPDATE, FENCE]
ACTS = [
    KEY,
    POINTER,
    CUT_TEXT,
    EXTENDED_CUT_TEXT,
    CONTINUOUS,
    XVP,
    DESKTOP_SIZE,
    QEMU_KEY,
    QEMU_AUDIO_ON,
    QEMU_AUDIO_FORMAT,
]


def speaking(*, view_only: bool) -> rfb.ClientFilter:
    client = rfb.ClientFilter(view_only=view_only)
    assert client.feed(HELLO) == HELLO_PASSED
    return client


@pytest.mark.parametrize("message", ACTS)
def test_a_viewers_action_is_dropped(message: bytes) -> None:
    assert speaking(view_only=True).feed(message + UPDATE) == UPDATE


@pytest.mark.parametrize("message", SEEN)
def test_a_viewer_may_look(message: bytes) -> None:
    assert speaking(view_only=True).feed(message) == message


@pytest.mark.parametrize("message", ACTS + SEEN)
def test_control_passes_all_that_qemu_knows(message: bytes) -> None:
    assert speaking(view_only=False).feed(message) == message


def test_the_vnc_password_answer_passes() -> None:
    client = rfb.ClientFilter(view_only=True)
    hello = b"RFB 003.008\n" + b"\x02" + bytes(range(16)) + b"\x00"
    assert client.feed(hello) == hello[:-1] + b"\x01"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1",
        b"RFB 003.003\n",
        b"RFB 003.008\n\x13",  # VeNCrypt: nobody offers it here
        HELLO + bytes([99]),  # its length cannot be known
        HELLO + struct.pack(">BxH", 2, 5000),
        HELLO + struct.pack(">Bxxxi", 6, 1 << 30),
        HELLO + struct.pack(">Bxxxi", 6, -(1 << 30)),
        HELLO + bytes([255, 9]),
        HELLO + bytes([248, 0, 0, 0, 0, 0, 0, 0, 255]),
        HELLO + struct.pack(">BxHHBx", 251, 1, 1, 255),
    ],
)
def test_what_is_not_rfb_ends_the_connection(data: bytes) -> None:
    client = rfb.ClientFilter(view_only=False)
    with pytest.raises(rfb.ProtocolError):
        client.feed(data)


@given(
    messages=st.lists(st.sampled_from(ACTS + SEEN), max_size=30),
    cuts=st.lists(st.integers(min_value=1, max_value=40), max_size=60),
    view_only=st.booleans(),
)
def test_however_it_is_cut_the_same_passes(
    messages: list[bytes], cuts: list[int], view_only: bool
) -> None:
    stream = HELLO + b"".join(messages)
    client = rfb.ClientFilter(view_only=view_only)
    passed, at = b"", 0
    for cut in [*cuts, len(stream)]:
        passed += client.feed(stream[at : at + cut])
        at += cut
    expected = [m for m in messages if not view_only or m in SEEN]
    assert passed == HELLO_PASSED + b"".join(expected)


@given(st.binary(max_size=4096))
def test_a_viewers_garbage_reaches_nothing(garbage: bytes) -> None:
    """No crash, and whatever passes is a sequence of messages that a viewer may send."""
    client = speaking(view_only=True)
    try:
        passed = client.feed(garbage)
    except rfb.ProtocolError:
        return
    again = rfb.ClientFilter(view_only=True)
    again.feed(HELLO)
    assert again.feed(passed) == passed
    assert not passed or passed[0] in rfb.VIEWER_MAY_SEND


def test_memory_is_bounded_by_the_largest_message() -> None:
    client = speaking(view_only=True)
    client.feed(struct.pack(">Bxxxi", 6, rfb.MAX_CUT_TEXT))
    for _ in range(rfb.MAX_CUT_TEXT // 65536):
        assert client.feed(bytes(65536)) == b""
    assert len(client._pending) < 65536
