"""A real machine's screen, watched by thirty and recorded: seen by a client that nobody of the
product wrote, and compared with the picture that libvirt takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.consoles.displays import DESKTOP_SIZE, TIGHT, Client, Picture
from tests.consoles.test_record_a_console import pieces, played
from tests.e2e.guests import Guest
from tests.e2e.site import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
VIEWERS = 30
DEADLINE_S = 60
STOPPED = 4410


@pytest.fixture
def guest(site: Site, tmp_path: Path) -> Guest:
    """From its first second on: it is not waited for."""
    answer = site.stack.create(name=f"class-{tmp_path.name[-6:].strip('_')}".lower())
    found = site.guest(answer["vm"]["uuid"])
    found.wait(lambda: found.facts()["state"] == "running", "it runs", timeout_s=DEADLINE_S)
    return found


def screenshot(guest: Guest, folder: Path) -> Picture:
    """As libvirt takes it from QEMU, past everything of ours."""
    path = folder / "screen"
    guest.virsh("screenshot", str(path))
    with Image.open(path) as picture:
        data = np.asarray(picture.convert("RGB")).astype(np.uint32)
    found: Picture = data[..., 0] << 16 | data[..., 1] << 8 | data[..., 2]
    return found


@contextlib.asynccontextmanager
async def watch(site: Site, guest: Guest, user: str) -> AsyncIterator[tuple[Client, Any]]:
    wanted = {"kind": "vnc", "mode": "view"}
    given = await asyncio.to_thread(
        site.stack.api, "POST", f"/vms/{guest.uuid}/console", wanted, user=user
    )
    url = site.stack.url.replace("http", "ws", 1) + urlsplit(given["url"]).path
    async with connect(
        url, subprotocols=given["protocols"], compression=None, max_size=None
    ) as line:

        async def read() -> bytes:
            data = await line.recv()
            assert isinstance(data, bytes)
            return data

        client = Client(read, line.send, encodings=(TIGHT, DESKTOP_SIZE))
        yield client, asyncio.ensure_future(client.run())


async def until(condition: Callable[[], Any], what: str) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not await asyncio.to_thread(condition):
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.3)


def test_thirty_watch_a_real_screen(site: Site, guest: Guest, tmp_path: Path) -> None:
    asyncio.run(_thirty_watch(site, guest, tmp_path))


async def _thirty_watch(site: Site, guest: Guest, tmp_path: Path) -> None:
    started = site.stack.api("POST", f"/vms/{guest.uuid}/recordings", {"kind": "vnc"})
    at = f"/recordings/{started['id']}"
    async with contextlib.AsyncExitStack() as stack:
        # Two people's, as each may have twenty open.
        people = ["owner", "admin"] * (VIEWERS // 2)
        entered = [await stack.enter_async_context(watch(site, guest, who)) for who in people[1:]]
        sharing = site.stack.api("GET", f"/vms/{guest.uuid}/console/sharing")
        assert [r["id"] for r in sharing["recordings"]] == [started["id"]]

        def all_see_it() -> bool:
            shown = screenshot(guest, tmp_path)
            return all(np.array_equal(client.picture, shown) for client, _ in entered)

        await until(all_see_it, "every picture is libvirt's")
        first = entered[0][0].picture.copy()
        assert len(np.unique(first)) > 1, "there is nothing to see"
        late = await stack.enter_async_context(watch(site, guest, people[0]))
        entered.append(late)
        await until(all_see_it, "who joins late sees the same")
        # A reset keeps the display; whoever watches sees the firmware again.
        before = entered[0][0].updates
        guest.virsh("reset")
        await until(lambda: entered[0][0].updates > before + 3, "the machine starts again")
        site.stack.api("POST", f"{at}/stop")

        def ended() -> bool:
            return bool(site.stack.api("GET", at)["ended_at"])

        await until(ended, "the recording has ended")
        found = site.stack.api("GET", at)
        assert found["end_reason"] == "stopped_by"
        assert found["entries"]
        guest.virsh("destroy")
        for _, task in entered:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(task, DEADLINE_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == STOPPED
    data = httpx.get(
        f"{site.stack.url}/api/v1{at}/data",
        headers={"Authorization": f"Bearer {site.stack.tokens['owner']}"},
        timeout=30,
    ).content
    assert len(data) == found["size_bytes"]
    client = await played(*[piece for *_, piece in pieces(data)])
    assert client.updates > 3
    assert client.picture.size
