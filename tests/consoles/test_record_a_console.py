"""A console is recorded by who may, with everybody told; what comes out can be played and is
bounded."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts.errors import Conflict, Forbidden, NotFound
from accounts.models import AuditEntry, User
from tests.consoles.displays import Client, Display
from tests.consoles.test_both_carriers_keep_the_contract import answers, free_port, wait_for
from tests.consoles.test_many_viewers_one_connection import few_colours, text_like, until
from vms import timeline
from vms.consoles import recorder, recordings, sharing, targets
from vms.consoles.hub import recording, room
from vms.models import VM, ConsoleRecording

pytestmark = pytest.mark.django_db
DEADLINE_S = 20


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, settings: Any) -> Path:
    settings.RECORDINGS_DIR = tmp_path / "recordings"
    return tmp_path / "recordings"


def made(vm: VM, *, size: int = 10, kind: str = "vnc", days_ago: float = 0) -> ConsoleRecording:
    """One that has ended, with its files."""
    row = ConsoleRecording.objects.create(
        vm=vm, kind=kind, size_bytes=size, ended_at=timezone.now() - timedelta(days=days_ago)
    )
    row.path = f"{row.pk}.fbs"
    row.save()
    recordings.file_of(row).parent.mkdir(exist_ok=True)
    recordings.file_of(row).write_bytes(bytes(range(size)))
    recordings.index_of(row).write_text("[0, 5, 16, 16]\n[9, 7")
    return row


# --- who may ------------------------------------------------------------------------------------
def test_owner_and_admin_start_one_everybody_is_told(
    owner: User, admin: User, viewer: User, vm: VM
) -> None:
    row = recordings.start(vm, "vnc", actor=owner)
    assert [r.pk for r in sharing.state(vm, viewer).recordings] == [row.pk]
    with pytest.raises(Conflict, match=r"console\.recording_runs"):
        recordings.start(vm, "vnc", actor=admin)
    recordings.start(vm, "serial", actor=admin)
    assert [e.text for e in timeline.entries(vm)][-1] == "Recording of the screen started"
    assert AuditEntry.objects.filter(verb="console.record", actor=owner).exists()


def test_others_do_not(
    teammate: User, viewer: User, outsider: User, owner: User, vm: VM, settings: Any
) -> None:
    for person in (teammate, viewer):
        with pytest.raises(Forbidden):
            recordings.start(vm, "vnc", actor=person)
    with pytest.raises(NotFound):
        recordings.start(vm, "vnc", actor=outsider)
    settings.CONSOLE_RECORDING = "never"
    assert not sharing.state(vm, owner).i_may.record
    with pytest.raises(Conflict, match=r"console\.recording_never"):
        recordings.start(vm, "vnc", actor=owner)


def test_who_is_only_invited_sees_no_recordings(owner: User, outsider: User, vm: VM) -> None:
    row = made(vm)
    _, token = sharing.invite(vm, actor=owner, mode="control")
    sharing.join(token, actor=outsider)
    with pytest.raises(NotFound):
        recordings.one(outsider, row.pk)
    with pytest.raises(NotFound):
        recordings.listed(vm, outsider)


@pytest.mark.django_db(transaction=True)
def test_by_the_api(owner: User, teammate: User, outsider: User, vm: VM, api: Any) -> None:
    row = made(vm)
    mine, theirs, strangers = api(owner), api(teammate), api(outsider)
    at = f"/recordings/{row.pk}"
    found = theirs.get(at).json()
    assert (found["entries"], found["vm"]) == ([[0, 5, 16, 16]], str(vm.uuid))
    assert theirs.get(f"/vms/{vm.uuid}/recordings").json()["count"] == 1
    for path in (at, f"{at}/data"):
        assert strangers.get(path).status_code == 404
    assert strangers.post(f"{at}/stop").status_code == 404
    assert theirs.post(f"{at}/stop").status_code == 403
    assert theirs.delete(at).status_code == 403
    assert theirs.post(f"/vms/{vm.uuid}/recordings", {"kind": "vnc"}).status_code == 403
    assert mine.delete(at).status_code == 204
    assert not recordings.file_of(row).exists()
    assert mine.get(at).status_code == 404
    assert mine.get("/recordings/nonsense").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("", 200, bytes(range(10))),
        ("bytes=2-4", 206, b"\x02\x03\x04"),
        ("bytes=7-", 206, b"\x07\x08\x09"),
        ("bytes=-2", 206, b"\x08\x09"),
        ("bytes=8-99999", 206, b"\x08\x09"),
        ("bytes=10-", 416, b""),
        ("bytes=5-4", 416, b""),
        ("bytes=-", 416, b""),
        ("bytes=0-1,3-4", 416, b""),
        ("lines=1-2", 416, b""),
    ],
)
def test_a_part_of_it(
    asked: str, status: int, expected: bytes, owner: User, vm: VM, browser: Callable[..., Any]
) -> None:
    row = made(vm)
    headers = {"Range": asked} if asked else {}
    answer = browser(owner).get(f"/api/v1/recordings/{row.pk}/data", headers=headers)
    assert answer.status_code == status
    assert (asyncio.run(streamed(answer)) if answer.streaming else answer.content) == expected
    if status != 416:
        assert answer["Content-Disposition"].startswith("attachment")
        assert answer["Content-Length"] == str(len(expected))


async def streamed(answer: Any) -> bytes:
    return b"".join([piece async for piece in answer.streaming_content])


# --- bounds -------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_the_oldest_give_way(owner: User, vm: VM, settings: Any) -> None:
    settings.RECORDING_MAX_MIB, settings.RECORDINGS_MAX_MIB = 1, 2
    rows = [made(vm, size=200, days_ago=days) for days in (3, 1, 2)]
    ConsoleRecording.objects.update(size_bytes=400 << 10)
    recordings.start(vm, "vnc", actor=owner)
    left = set(ConsoleRecording.objects.filter(ended_at__isnull=False))
    assert left == {rows[1], rows[2]}
    assert not recordings.file_of(rows[0]).exists()
    recordings.start(vm, "serial", actor=owner)
    assert not ConsoleRecording.objects.filter(ended_at__isnull=False).exists()


def test_no_room_while_others_take_it_all(
    owner: User, vm: VM, make_vm: Any, team: Any, settings: Any
) -> None:
    settings.RECORDING_MAX_MIB, settings.RECORDINGS_MAX_MIB = 1, 1
    recordings.start(vm, "vnc", actor=owner)
    with pytest.raises(Conflict, match=r"console\.recordings_full"):
        recordings.start(make_vm(owner, team), "vnc", actor=owner)


@pytest.mark.django_db(transaction=True)
def test_tidy(owner: User, vm: VM, make_vm: Any, team: Any) -> None:
    kept, old, gone = made(vm), made(vm, days_ago=31), made(make_vm(owner, team))
    VM.objects.filter(pk=gone.vm.pk).update(deleted_at=timezone.now())
    lost = recordings.start(vm, "vnc", actor=owner)
    ConsoleRecording.objects.filter(pk=lost.pk).update(
        seen_at=timezone.now() - recordings.STALE * 2
    )
    recordings.tidy()
    assert set(ConsoleRecording.objects.all()) == {kept, lost}
    lost.refresh_from_db()
    assert lost.end_reason == "lost"
    assert recordings.file_of(kept).exists()
    for row in (old, gone):
        assert not recordings.file_of(row).exists()
        assert not recordings.index_of(row).exists()


# --- making one ---------------------------------------------------------------------------------
@pytest.fixture
async def display(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Display]:
    found = Display(200, 150)

    async def open_vnc(_: VM) -> targets.Target:
        return targets.SocketTarget(await found.open())

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    monkeypatch.setattr(room, "LINGER_S", 0)
    monkeypatch.setattr(room, "FPS", 100)
    monkeypatch.setattr(recorder, "FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr(recordings, "SEEN_EVERY_S", 0.05)
    yield found
    await found.close()
    await until(lambda: not room._rooms, "the room was not closed")


def pieces(data: bytes) -> list[tuple[int, int, bytes]]:
    """(offset, milliseconds, bytes) of an FBS file, read as its format says."""
    assert data.startswith(b"FBS 001.000\n")
    at, found = 12, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 4 + length + -length % 4
        (milliseconds,) = struct.unpack_from(">I", data, end)
        found.append((at, milliseconds, data[at + 4 : at + 4 + length]))
        at = end + 4
    assert at == len(data)
    return found


async def played(*streams: bytes) -> Client:
    """What a client of RFB has on its screen at the end of them."""
    queue = list(streams)

    async def read() -> bytes:
        return queue.pop(0) if queue else b""

    async def write(_: bytes) -> None:
        """A recording listens to nobody."""

    client = Client(read, write)
    await asyncio.wait_for(client.run(), DEADLINE_S)
    return client


async def record(row: ConsoleRecording, work: Callable[[], Any]) -> ConsoleRecording:
    task = recorder.begin_here(row.pk)
    await work()
    await asyncio.wait_for(task, DEADLINE_S)
    await sync_to_async(row.refresh_from_db)()
    return row


@pytest.mark.django_db(transaction=True)
async def test_what_was_shown_can_be_played(
    display: Display, owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "WHOLE_EVERY_S", 0.2)
    row = await sync_to_async(recordings.start)(vm, "vnc", actor=owner)
    file = recordings.file_of(row)

    async def work() -> None:
        for number in range(30):
            display.draw(number, 10, text_like(40, 60, number))
            await asyncio.sleep(0.02)
        await display.resize(120, 90)
        display.draw(0, 0, few_colours(90, 120, 7))
        before = 0
        while file.stat().st_size != before:
            before = file.stat().st_size
            await asyncio.sleep(0.3)
        await sync_to_async(recordings.ask_to_stop)(row, actor=owner)

    await record(row, work)
    data = file.read_bytes()
    assert (row.end_reason, row.size_bytes) == ("stopped_by", len(data))
    assert file.stat().st_mode & 0o077 == 0
    found = pieces(data)
    times = [at for _, at, _ in found]
    assert times == sorted(times)
    assert 500 < times[-1] <= row.duration_ms
    client = await played(*[piece for *_, piece in found])
    assert np.array_equal(client.picture, display.picture)
    # And from each place where the index says that it can be entered.
    entries = recordings.entries(row)
    assert len(entries) > 2
    for at, offset, width, height in entries:
        assert any(place == offset and time - at < 500 for place, time, _ in found)
        size = struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, -223)
        rest = [piece for place, _, piece in found if place >= offset]
        entered = await played(found[0][2], size, *rest)
        assert np.array_equal(entered.picture, display.picture)


@pytest.mark.django_db(transaction=True)
async def test_it_ends_with_the_machine(display: Display, owner: User, vm: VM) -> None:
    row = await sync_to_async(recordings.start)(vm, "vnc", actor=owner)

    async def work() -> None:
        await until(lambda: display.connections, "the display is recorded")
        await asyncio.sleep(0.1)
        await display.close()

    assert (await record(row, work)).end_reason == "stopped"
    kinds = await sync_to_async(lambda: [e.kind for e in timeline.entries(vm)])()
    assert kinds[0] == "console.recorded"


@pytest.mark.django_db(transaction=True)
async def test_it_is_no_larger_than_it_may_be(
    display: Display, owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "most_bytes", lambda: 100_000)
    row = await sync_to_async(recordings.start)(vm, "vnc", actor=owner)

    async def work() -> None:
        await until(lambda: display.connections, "the display is recorded")
        for number in range(200):
            display.draw(0, 0, few_colours(150, 200, number))
            await asyncio.sleep(0.01)

    assert (await record(row, work)).end_reason == "full"
    assert row.size_bytes <= 100_000
    assert recordings.file_of(row).stat().st_size == row.size_bytes


@pytest.mark.django_db(transaction=True)
async def test_no_display(owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_way(_: VM) -> targets.Target:
        raise OSError("no way there")

    monkeypatch.setattr(targets, "open_vnc", no_way)
    row = await sync_to_async(recordings.start)(vm, "vnc", actor=owner)

    async def work() -> None:
        """Nothing."""

    assert (await record(row, work)).ended_at is not None


@pytest.mark.django_db(transaction=True)
async def test_where_the_site_records_all(
    display: Display, vm: VM, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with the first console, is one, and ends when nobody looks any more."""
    assert await sync_to_async(recordings.start_by_rule)(vm, "vnc") is None
    settings.CONSOLE_RECORDING = "always"
    row = await sync_to_async(recordings.start_by_rule)(vm, "vnc")
    assert row is not None
    assert await sync_to_async(recordings.start_by_rule)(vm, "vnc") is None
    long_ago = timezone.now() - timedelta(minutes=2)
    await sync_to_async(ConsoleRecording.objects.update)(started_at=long_ago)

    async def work() -> None:
        await until(lambda: display.connections, "the display is recorded")

    assert (await record(row, work)).end_reason == "left"


@pytest.mark.django_db(transaction=True)
async def test_a_stuck_index_line_is_json(display: Display, owner: User, vm: VM) -> None:
    row = await sync_to_async(recordings.start)(vm, "vnc", actor=owner)

    async def work() -> None:
        await until(lambda: recordings.entries(row), "the first whole picture")
        await sync_to_async(recordings.ask_to_stop)(row, actor=owner)

    await record(row, work)
    lines = recordings.index_of(row).read_text().splitlines()
    assert all(len(json.loads(line)) == 4 for line in lines)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The site as it is run, with a display that stands still."""
    from kvmweb.asgi import application

    shown: list[Display] = []

    async def open_vnc(_: VM) -> targets.Target:
        shown.append(Display(200, 150))
        shown[-1].picture = text_like(150, 200, 5)
        return targets.SocketTarget(await shown[-1].open())

    monkeypatch.setattr(targets, "open_vnc", open_vnc)
    monkeypatch.setattr(room, "LINGER_S", 0)
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            application,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=port,
            lifespan="off",
            log_level="warning",
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: answers(port), "the site does not listen")
    yield f"http://127.0.0.1:{port}/api/v1"
    server.should_exit = True
    thread.join(DEADLINE_S)


@pytest.mark.django_db(transaction=True)
def test_asked_for_over_http(served: str, owner: User, vm: VM, api: Callable[..., Any]) -> None:
    """The request is over, the recording goes on; its file comes in pieces."""
    headers = {"Authorization": f"Bearer {api(owner).secret}"}
    with httpx.Client(headers=headers, timeout=DEADLINE_S) as client:
        answer = client.post(f"{served}/vms/{vm.uuid}/recordings", json={"kind": "vnc"})
        assert answer.status_code == 201, answer.text
        at = f"{served}/recordings/{answer.json()['id']}"
        wait_for(lambda: bool(client.get(at).json()["entries"]), "nothing is recorded")
        assert client.post(f"{at}/stop").status_code == 200
        wait_for(lambda: bool(client.get(at).json()["ended_at"]), "it does not end")
        found = client.get(at).json()
        assert found["end_reason"] == "stopped_by"
        data = client.get(f"{at}/data")
        assert len(data.content) == found["size_bytes"]
        part = client.get(f"{at}/data", headers={"Range": "bytes=12-15"})
        assert (part.status_code, part.content) == (206, data.content[12:16])
    shown = asyncio.run(played(*[piece for *_, piece in pieces(data.content)]))
    assert np.array_equal(shown.picture, text_like(150, 200, 5))
