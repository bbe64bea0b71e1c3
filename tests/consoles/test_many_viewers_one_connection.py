"""Viewers share one connection to the display, each sees what it shows, nobody waits for another.

The display and the clients are of ``displays``: written from the RFC, not with the product's code.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.errors import Unavailable
from tests.consoles.displays import (
    CURSOR,
    DESKTOP_SIZE,
    EXTENDED_DESKTOP_SIZE,
    QUALITY_6,
    TIGHT,
    Client,
    Display,
    Picture,
)
from vms.consoles import rfb, targets
from vms.consoles.hub import encode, pixels, room, screen, upstream, viewer
from vms.models import VM

DEADLINE_S = 20
LOSSLESS = (TIGHT, DESKTOP_SIZE)
LOCAL_VM: Any = VM(name="web-1")


@pytest.fixture
async def display(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Display]:
    found = Display(200, 150)

    async def open_vnc(_: VM) -> targets.Target:
        return targets.SocketTarget(await found.open())

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    monkeypatch.setattr(room, "LINGER_S", 0)
    monkeypatch.setattr(room, "FPS", 200)
    yield found
    await found.close()
    await until(lambda: not room._rooms, "the room was not closed")


async def until(condition: Callable[[], object], what: str) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.005)


class Watching:
    """Clients that look until the end of the test."""

    def __init__(self) -> None:
        self.views: list[room.View] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, vm: VM = LOCAL_VM, **how: Any) -> Client:
        view = await room.open_view(vm)
        # What a carrier does with what a viewer sends.
        checked = rfb.ClientFilter(view_only=True)

        async def write(data: bytes) -> None:
            if passed := checked.feed(data):
                await view.write(passed)

        client = Client(view.read, write, **how)
        self.views.append(view)
        self.tasks.append(asyncio.ensure_future(client.run()))
        return client

    async def leave(self) -> None:
        for view in self.views:
            view.close()
        await asyncio.wait_for(asyncio.gather(*self.tasks), DEADLINE_S)


@pytest.fixture
async def watching(display: Display) -> AsyncIterator[Watching]:
    found = Watching()
    yield found
    await found.leave()


def same(client: Client, display: Display) -> bool:
    return bool(np.array_equal(client.picture, display.picture))


def text_like(height: int, width: int, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0x101010, 0xEEEEEE], np.uint32), (height, width))


def many_colours(height: int, width: int, seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 1 << 24, (height, width), dtype=np.uint32)


def few_colours(height: int, width: int, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    return rng.choice(rng.integers(0, 1 << 24, 100, dtype=np.uint32), (height, width))


@pytest.mark.parametrize("paint", [text_like, few_colours, many_colours])
@pytest.mark.parametrize(
    "how",
    [
        {"encodings": LOSSLESS},
        {"encodings": ()},
        {
            "encodings": LOSSLESS,
            "pixel_format": struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16),
        },
        {
            "encodings": LOSSLESS,
            "pixel_format": struct.pack(">BBBBHHHBBBxxx", 32, 32, 1, 1, 255, 255, 255, 16, 8, 0),
        },
    ],
    ids=["tight", "raw", "tight-bgr", "raw-big-endian"],
)
async def test_each_pixel_is_right(
    paint: Callable[..., Picture], how: dict[str, Any], display: Display, watching: Watching
) -> None:
    display.draw(0, 0, paint(150, 200, 1))
    client = await watching.join(**how)
    await until(lambda: same(client, display), "the first picture")
    for number, (x, y, width, height) in enumerate(
        [(0, 0, 1, 1), (63, 63, 3, 3), (130, 20, 70, 5), (0, 0, 200, 150), (199, 149, 1, 1)]
    ):
        display.draw(x, y, paint(height, width, number))
        await until(lambda: same(client, display), f"change {number}")


async def test_a_simple_client_gets_its_16_bits(display: Display, watching: Watching) -> None:
    display.draw(0, 0, np.full((150, 200), 0xFF0000, np.uint32))
    display.draw(10, 10, np.full((50, 50), 0x00FF00, np.uint32))
    colours = struct.pack(">BBBBHHHBBBxxx", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0)
    client = await watching.join(encodings=LOSSLESS, pixel_format=colours)
    await until(lambda: same(client, display), "the picture in 16 bits")
    assert {how for how, *_ in client.rectangles} == {"raw"}


async def test_photos_are_jpeg_and_letters_are_sharp(display: Display, watching: Watching) -> None:
    shades = np.add.outer(np.arange(128, dtype=np.uint32), np.arange(128, dtype=np.uint32))
    photo = (shades << 16 | shades[::-1] << 8 | shades.T // 2).astype(np.uint32)
    display.draw(0, 0, photo)
    display.draw(128, 0, text_like(150, 72, 1))
    client = await watching.join()
    await until(lambda: client.rectangles, "the first picture")
    kinds = {how for how, *_ in client.rectangles}
    assert kinds >= {"jpeg", "fill", "mono"}
    assert np.array_equal(client.picture[:, 128:], display.picture[:, 128:])
    ours, theirs = client.picture[:128, :128], display.picture[:128, :128]
    for shift in (16, 8, 0):
        error = (ours >> shift & 255).astype(int) - (theirs >> shift & 255).astype(int)
        assert abs(error).mean() < 6, "it is another picture"


async def test_only_what_changed_is_sent(display: Display, watching: Watching) -> None:
    display.draw(0, 0, text_like(150, 200, 1))
    client = await watching.join(encodings=LOSSLESS)
    await until(lambda: same(client, display), "the first picture")
    client.rectangles.clear()
    display.draw(70, 70, np.full((5, 5), 0xABCDEF, np.uint32))
    await until(lambda: same(client, display), "the change")
    assert [place for _, *place in client.rectangles] == [[64, 64, 64, 64]]
    before = client.bytes
    display.draw(0, 0, display.picture.copy())  # the same again
    seen = display.requests
    await until(lambda: display.requests > seen, "the display is asked again")
    assert client.bytes == before


async def test_thirty_viewers_one_connection(display: Display, watching: Watching) -> None:
    display.draw(0, 0, few_colours(150, 200, 1))
    clients = [await watching.join(encodings=LOSSLESS) for _ in range(30)]
    for number in range(10):
        display.draw(number, number, few_colours(90, 90, number))
        await until(lambda: all(same(client, display) for client in clients), f"{number}")
    assert display.connections == 1
    assert display.got == []


async def test_who_joins_late_sees_all(display: Display, watching: Watching) -> None:
    first = await watching.join(encodings=LOSSLESS)
    for number in range(5):
        display.draw(0, 0, few_colours(150, 200, number))
        await until(lambda: same(first, display), f"{number}")
    requests = display.requests
    late = await watching.join(encodings=LOSSLESS)
    await until(lambda: same(late, display), "the whole picture, though nothing moves")
    assert display.requests <= requests + 1  # not because the display was asked for all of it


async def test_two_machines_of_which_one_moves(
    display: Display, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several look at each; a live migration closes the display here and opens one there."""
    here, there, other = display, Display(200, 150), Display(200, 150)
    moving, staying = VM(name="moves"), VM(name="stays")
    shown = {moving.uuid: here, staying.uuid: other}

    async def open_vnc(vm: VM) -> targets.Target:
        return targets.SocketTarget(await shown[vm.uuid].open())

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    here.draw(0, 0, text_like(150, 200, 1))
    there.draw(0, 0, text_like(150, 200, 2))
    other.draw(0, 0, few_colours(150, 200, 3))

    async def four(vm: VM) -> list[Client]:
        """At the same time."""
        joining = (watching.join(vm, encodings=LOSSLESS) for _ in range(4))
        return list(await asyncio.gather(*joining))

    left, stayed = await four(moving), await four(staying)
    await until(lambda: all(same(client, here) for client in left), "the first picture")
    await until(lambda: all(same(client, other) for client in stayed), "the other's picture")

    shown[moving.uuid] = there
    await here.close()
    await asyncio.wait_for(asyncio.gather(*watching.tasks[:4]), DEADLINE_S)  # with their end
    back = await four(moving)
    other.draw(10, 10, text_like(80, 90, 4))
    there.draw(64, 64, text_like(50, 60, 5))
    await until(lambda: all(same(client, other) for client in stayed), "the one that stayed")
    await until(lambda: all(same(client, there) for client in back), "the one that moved")
    late = await watching.join(moving, encodings=LOSSLESS)
    await until(lambda: same(late, there), "who came late")
    assert (here.connections, there.connections, other.connections) == (1, 1, 1)
    await watching.leave()
    watching.views.clear()
    watching.tasks.clear()
    for one in (there, other):
        await one.close()


async def test_rectangles_are_encoded_once(
    display: Display, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = encode.tight

    def counted(*args: Any) -> bytes:
        nonlocal calls
        calls += 1
        return real(*args)

    monkeypatch.setattr(encode, "tight", counted)
    clients = [await watching.join(encodings=LOSSLESS) for _ in range(20)]
    await until(lambda: all(client.updates for client in clients), "all have the first picture")
    assert calls == 4 * 3  # a screen of 200 x 150 has so many tiles


@pytest.mark.parametrize("sizes", [DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE])
async def test_another_size(sizes: int, display: Display, watching: Watching) -> None:
    display.draw(0, 0, text_like(150, 200, 1))
    client = await watching.join(encodings=(TIGHT, sizes))
    await until(lambda: same(client, display), "the first picture")
    for width, height in ((320, 240), (64, 64), (1, 1), (200, 150)):
        await display.resize(width, height)
        await until(lambda: same(client, display), f"{width} x {height}")
        display.draw(0, 0, np.full((1, 1), 0x777777, np.uint32))
        await until(lambda: same(client, display), f"a change in {width} x {height}")
    late = await watching.join(encodings=(TIGHT, sizes))
    await until(lambda: same(late, display), "who joins late knows the size")


async def test_a_client_that_cannot_change_its_size_must_come_again(display: Display) -> None:
    view = await room.open_view(LOCAL_VM)
    client = Client(view.read, view.write, encodings=(TIGHT,))
    await client.start()
    await client.message()
    await display.resize(320, 240)
    await client.ask(incremental=True)
    with pytest.raises(targets.TargetEnded) as ended:
        await asyncio.wait_for(client.message(), DEADLINE_S)
    assert ended.value.reason == "unavailable"
    view.close()


async def test_the_pointers_shape(display: Display, watching: Watching) -> None:
    client = await watching.join(encodings=(TIGHT, CURSOR, QUALITY_6, DESKTOP_SIZE))
    await until(lambda: client.updates, "the first picture")
    await display.cursor(9, 7)
    await until(lambda: client.cursor == (1, 2, 9, 7), "the shape")
    late = await watching.join(encodings=(TIGHT, CURSOR))
    await until(lambda: late.cursor == (1, 2, 9, 7), "the shape for who joins late")


async def test_it_asks_only_while_somebody_waits(display: Display) -> None:
    view = await room.open_view(LOCAL_VM)
    client = Client(view.read, view.write, keep_asking=False)
    await client.start()
    await client.message()
    asked = display.requests
    for number in range(5):
        display.draw(0, 0, text_like(150, 200, number))
        await asyncio.sleep(0.02)
    assert display.requests == asked
    view.close()
    await until(lambda: not room._rooms, "the last one has left")


async def test_it_asks_no_more_than_so_often(
    display: Display, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FPS", 10)
    await watching.join(encodings=LOSSLESS)
    stop = asyncio.get_running_loop().time() + 1
    number = 0
    while asyncio.get_running_loop().time() < stop:
        number += 1
        display.draw(0, 0, text_like(150, 200, number))
        await asyncio.sleep(0.003)
    assert 3 < display.requests < 16


async def test_who_does_not_read_costs_little_and_delays_nobody(
    display: Display, watching: Watching
) -> None:
    """It asks again and again, and takes nothing: it gets the newest when it reads at last."""
    stalled = await room.open_view(LOCAL_VM)
    client = Client(stalled.read, stalled.write, encodings=LOSSLESS)
    await client.start()
    busy = await watching.join(encodings=LOSSLESS)
    for number in range(30):
        display.draw(0, 0, many_colours(150, 200, number))
        await client.ask(incremental=True)
        await until(lambda: same(busy, display), f"{number}")
    assert len(stalled._out) < 1 << 16
    while not same(client, display):
        await asyncio.wait_for(client.message(), DEADLINE_S)
    assert client.updates < 4, "it was sent pictures of the past"
    stalled.close()


async def test_a_large_picture_comes_in_pieces(
    display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 20_000)
    display.picture = many_colours(150, 200, 1)
    view = await room.open_view(LOCAL_VM, most_bytes=20_000)
    client = Client(view.read, view.write, encodings=())
    await client.start()
    sizes = []
    while not same(client, display):
        before = client.bytes
        await asyncio.wait_for(client.message(), DEADLINE_S)
        sizes.append(client.bytes - before)
    assert len(sizes) > 3
    assert max(sizes) < 20_000 + 64 * 64 * 4 + 1000
    view.close()


async def test_it_ends_with_the_machine(display: Display, watching: Watching) -> None:
    client = await watching.join()
    await until(lambda: client.updates, "the first picture")
    await display.close()
    await asyncio.wait_for(watching.tasks[0], DEADLINE_S)
    assert watching.views[0]._room.end_reason == "stopped"


async def test_no_display_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    display = Display()

    async def open_vnc(_: VM) -> targets.Target:
        target = targets.SocketTarget(await display.open())
        await display.close()
        return target

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    with pytest.raises(Unavailable):
        await room.open_view(LOCAL_VM)
    assert not room._rooms


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"RFB 003.008\n\x01\x02",  # only with a password
        b"RFB 003.008\n\x01\x01\0\0\0\x01",
        b"RFB 003.008\n\x01\x01\0\0\0\0\xff\xff\xff\xff" + bytes(16) + b"\0\0\0\0",
        b"RFB 003.008\n\x01\x01\0\0\0\0\0\x10\0\x10" + bytes(16) + b"\xff\0\0\0",
    ],
    ids=["no RFB", "security", "refused", "enormous", "name"],
)
async def test_a_display_that_is_not_understood(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_vnc(_: VM) -> targets.Target:
        class Odd:
            async def read(self) -> bytes:
                nonlocal said
                data, said = said, b""
                return data

            async def write(self, data: bytes) -> None:
                """Whatever."""

            def fileno(self) -> int:
                raise OSError

            def close(self) -> None:
                """Nothing to close."""

        return Odd()

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    with pytest.raises(Unavailable):
        await room.open_view(LOCAL_VM)


async def test_a_viewer_cannot_type(display: Display) -> None:
    """Past the filter, too: the viewer's end knows no such message."""
    view = await room.open_view(LOCAL_VM)
    client = Client(view.read, view.write)
    await client.start()
    for message in (b"\x04\x01\0\0\0\0\0a", b"\x05\x01\0\0\0\0", b"\x06" + bytes(7)):
        with pytest.raises(rfb.ProtocolError):
            await (await _greeted(LOCAL_VM)).write(message)
    assert display.got == []
    view.close()


async def _greeted(vm: VM) -> room.View:
    view = await room.open_view(vm)
    await Client(view.read, view.write).start()
    view.close()
    return view


@given(pieces=st.lists(st.binary(max_size=40), max_size=12), whole=st.booleans())
def test_whatever_a_display_says(pieces: list[bytes], whole: bool) -> None:
    """Understood or refused; never another error, never memory without end."""
    display = upstream.DisplayClient()
    try:
        if whole:
            display.feed(
                b"RFB 003.008\n\x01\x01" + bytes(4) + b"\0\x10\0\x10" + bytes(16) + bytes(4)
            )
        for piece in pieces:
            display.feed(piece)
    except upstream.DisplayError:
        pass
    assert len(display._pending) < 1 << 10


HELLO = b"RFB 003.008\n\x01\x01"


@given(pieces=st.lists(st.binary(max_size=40), max_size=12), greeted=st.booleans())
def test_whatever_a_viewer_says(pieces: list[bytes], greeted: bool) -> None:
    checked = rfb.ClientFilter(view_only=True)
    found = viewer.Viewer(screen.Screen(100, 80), name="web-1")
    try:
        if greeted:
            found.feed(checked.feed(HELLO))
        for piece in pieces:
            assert len(found.feed(checked.feed(piece))) < 1000
    except rfb.ProtocolError:
        pass
    assert len(found._pending) < 1 << 12
    assert found.encoding is not None
    found.wanted()


def test_odd_wishes_cost_no_memory() -> None:
    """Every part of a screen that stands still, in formats that nobody else wants."""
    found = screen.Screen(1024, 768)
    for width in range(64, 1025, 64):
        for shift in range(8):
            odd = pixels.PixelFormat(
                bits=32,
                depth=8,
                big_endian=True,
                true_colour=True,
                maxima=(255, 255, 255),
                shifts=(shift, 8, 16),
            )
            found.compose(found.within(0, 0, width, 768), encode.Raw(odd), 1 << 20)
    kept = sum(len(update.content) for update in found._updates.values())
    assert kept <= screen.UPDATES_KEPT_BYTES


async def test_encoding_happens_beside_the_loop(
    display: Display, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    real = encode.tight

    def noted(*args: Any) -> bytes:
        threads.add(threading.current_thread().name)
        return real(*args)

    monkeypatch.setattr(encode, "tight", noted)
    client = await watching.join()
    await until(lambda: client.updates, "the first picture")
    assert threads
    assert threading.main_thread().name not in threads
