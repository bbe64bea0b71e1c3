"""``/ws/live``: who hears what, who is kept out, and a socket that cannot keep up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings as site
from django.test import Client

from accounts import revocations
from accounts.models import Team, User
from jobs import consumers, live, services
from jobs.models import Job
from kvmweb.asgi import application
from tests.jobs.driving import finish
from vms.models import VM

pytestmark = pytest.mark.django_db(transaction=True)

Enqueue = Callable[..., Job]
Browser = Callable[[User], Client]


def socket(client: Client | None, *, origin: str = "http://localhost") -> WebsocketCommunicator:
    headers = [(b"host", b"localhost"), (b"origin", origin.encode())]
    if client is not None:
        cookie = client.cookies[site.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{site.SESSION_COOKIE_NAME}={cookie}".encode()))
    return WebsocketCommunicator(application, "/ws/live", headers=headers)


@asynccontextmanager
async def connected(client: Client) -> AsyncIterator[WebsocketCommunicator]:
    page = socket(client)
    accepted, _ = await page.connect(timeout=5)
    assert accepted
    yield page
    await page.disconnect()


async def hears(page: WebsocketCommunicator) -> list[tuple[str, str]]:
    """What arrives until nothing has for a moment."""
    heard = []
    while not await page.receive_nothing(timeout=0.3):
        message = await page.receive_json_from()
        heard.append((message["topic"], message["id"]))
    return heard


@pytest.fixture
def people(
    owner: User, teammate: User, outsider: User, admin: User, team: Team, browser: Browser
) -> dict[str, Client]:
    return {user.username: browser(user) for user in (owner, teammate, outsider, admin)}


async def test_those_who_see_a_machine_hear_of_its_job(
    people: dict[str, Client], vm: VM, owner: User, enqueue: Enqueue
) -> None:
    heard = {}
    async with (
        connected(people["owner"]) as own,
        connected(people["teammate"]) as mate,
        connected(people["outsider"]) as out,
        connected(people["admin"]) as boss,
    ):
        job = await sync_to_async(enqueue)("test.files", vm=vm, actor=owner)
        for name, page in (("owner", own), ("mate", mate), ("out", out), ("boss", boss)):
            heard[name] = set(await hears(page))
    told = {("job", str(job.pk)), ("vm", str(vm.uuid))}
    assert heard == {"owner": told, "mate": told, "boss": told, "out": set()}


async def test_a_job_without_a_machine_is_its_actors(
    people: dict[str, Client], owner: User, enqueue: Enqueue
) -> None:
    async with connected(people["owner"]) as own, connected(people["teammate"]) as mate:
        job = await sync_to_async(enqueue)("test.files", actor=owner)
        assert await hears(own) == [("job", str(job.pk))]
        assert await hears(mate) == []
        await sync_to_async(finish)(job)
        assert ("job", str(job.pk)) in await hears(own)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:81", "null", "http://localhost.evil.example"],
)
async def test_pages_of_other_sites_are_refused(people: dict[str, Client], origin: str) -> None:
    accepted, _ = await socket(people["owner"], origin=origin).connect(timeout=5)
    assert not accepted


async def test_nobody_without_a_session_is_let_in(db: None) -> None:
    accepted, _ = await socket(None).connect(timeout=5)
    assert not accepted


async def test_an_unknown_path_is_refused_quietly(people: dict[str, Client]) -> None:
    page = socket(people["owner"])
    page.scope["path"] = "/ws/else"
    accepted, _ = await page.connect(timeout=5)
    assert not accepted


async def test_sign_out_ends_that_session_within_a_second(
    people: dict[str, Client], owner: User, browser: Browser
) -> None:
    elsewhere = await sync_to_async(browser)(owner)
    async with connected(people["owner"]) as here, connected(elsewhere) as there:
        await sync_to_async(people["owner"].post)("/accounts/logout/")
        closed = await here.receive_output(timeout=1)
        assert (closed["type"], closed["code"]) == ("websocket.close", consumers.SIGNED_OUT)
        assert await there.receive_nothing(timeout=0.3)


async def test_a_deactivated_person_is_cut_off(people: dict[str, Client], owner: User) -> None:
    async with connected(people["owner"]) as page:
        revocation = revocations.Revocation(user_id=owner.pk, reason="deactivated")
        await sync_to_async(revocations.announce)(revocation)
        closed = await page.receive_output(timeout=1)
        assert closed["type"] == "websocket.close"


async def test_a_revocation_that_was_lost_is_noticed_later(
    people: dict[str, Client], owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_S", 0.1)
    async with connected(people["owner"]) as page:
        await User.objects.filter(pk=owner.pk).aupdate(is_active=False)
        closed = await page.receive_output(timeout=5)
        assert (closed["type"], closed["code"]) == ("websocket.close", consumers.SIGNED_OUT)


async def test_ten_thousand_nudges_of_one_machine_are_a_few_messages(
    people: dict[str, Client], vm: VM, owner: User
) -> None:
    async with connected(people["owner"]) as page:
        for _ in range(100):
            for _ in range(100):
                live.publish("vm", vm.uuid, groups=[live.user_group(owner.pk)])
            await asyncio.sleep(0)  # the layer holds 100 messages for each socket
            while live._tasks:
                await asyncio.sleep(0.001)
        heard = await hears(page)
        assert set(heard) == {("vm", str(vm.uuid))}
        assert len(heard) < 100


async def test_a_socket_that_cannot_keep_up_is_ended_and_holds_little(
    people: dict[str, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page connects again and fetches everything once."""
    stuck = asyncio.Event()
    kept: list[consumers.LiveConsumer] = []
    real = consumers.LiveConsumer.send

    async def slow(self: consumers.LiveConsumer, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        await stuck.wait()
        await real(self, *args, **kwargs)

    monkeypatch.setattr(consumers.LiveConsumer, "send", slow)
    async with connected(people["owner"]) as page:
        consumer: consumers.LiveConsumer | None = None
        for number in range(consumers.BACKLOG + 10):
            event = {"topic": "vm", "id": str(number)}
            if consumer is None:
                user = await User.objects.aget(username="owner")
                live.publish("vm", "first", groups=[live.user_group(user.pk)])
                while not kept:
                    await asyncio.sleep(0.01)
                consumer = kept[0]
            await consumer.nudge(event)  # returns at once, whatever the socket does
        stuck.set()
        closed: dict[str, Any] = {}
        while closed.get("type") != "websocket.close":
            closed = dict(await page.receive_output(timeout=5))
        assert closed["code"] == consumers.TOO_SLOW


async def test_what_a_page_sends_is_ignored(people: dict[str, Client]) -> None:
    async with connected(people["owner"]) as page:
        await page.send_to(text_data="not json")
        await page.send_to(bytes_data=b"\x00")
        assert await page.receive_nothing(timeout=0.2)


def test_cancelling_tells_the_pages(
    enqueue: Enqueue, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(live, "publish", lambda topic, _id, **_kw: told.append(topic))
    job = enqueue("test.files", actor=owner)
    told.clear()
    services.cancel(job, actor=owner)
    assert told == ["job"]
