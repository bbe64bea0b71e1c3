"""Somebody is deactivated while they work: all they had open ends, and their machines run on.

The whole site is served, with a Redis that carries the news. Nothing here asks again by the clock:
what ends was told to end.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings as site_settings
from django.test import Client
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from accounts import tokens
from accounts.models import AuditEntry, SignIn, User
from hosts.virt.fake import FakeHypervisor
from jobs import consumers
from kvmweb.asgi import application
from tests.conftest import PASSWORD
from tests.consoles.serial_site import SerialSite, Terminal
from tests.consoles.test_both_carriers_keep_the_contract import DEADLINE_S, close_code, wait_for
from tests.consoles.test_serial_line import fake
from tests.servers import Redis
from vms.consoles import gate, sessions, targets, tickets
from vms.models import VM, ConsoleSession

__all__ = ["fake"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.broker]
LONG_S = 3600.0
HELLO = b"RFB 003.008\n\x01\x01"


@pytest.fixture
def site(
    fake: FakeHypervisor, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SerialSite]:
    redis = Redis(tmp_path / "redis")
    redis.start()
    layer = "channels_redis.pubsub.RedisPubSubChannelLayer"
    config = {"hosts": [redis.url], "prefix": "kvmweb"}
    settings.REDIS_URL = redis.url
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": layer, "CONFIG": config}}
    monkeypatch.setattr(sessions, "RECHECK_S", LONG_S)
    monkeypatch.setattr(consumers, "RECHECK_S", LONG_S)
    try:
        with SerialSite(application) as made:
            yield made
            wait_for(
                lambda: not ConsoleSession.objects.filter(ended_at__isnull=True).exists(),
                "a console session was not closed",
            )
    finally:
        redis.stop()


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The machines' ends of the screens that were opened."""
    opened: list[socket.socket] = []

    def open_display(_vm: VM) -> socket.socket:
        ours, theirs = socket.socketpair()
        opened.append(theirs)
        return ours

    monkeypatch.setattr(targets, "open_vnc_socket", open_display)
    yield opened
    for one in opened:
        one.close()


def signed_in(person: User) -> Client:
    client = Client()
    client.post("/accounts/login/", {"login": person.username, "password": PASSWORD})
    assert SignIn.objects.filter(user=person).exists()
    return client


def dial(site: SerialSite, path: str, key: str, *, ticket: str = "") -> ClientConnection:
    """As the browser that has this session."""
    return connect(
        f"ws://127.0.0.1:{site.port}{path}",
        subprotocols=["binary", f"ticket.{ticket}"] if ticket else None,  # type: ignore[list-item]
        origin=f"http://127.0.0.1:{site.port}",  # type: ignore[arg-type]
        additional_headers={"Cookie": f"{site_settings.SESSION_COOKIE_NAME}={key}"},
        compression=None,
        open_timeout=DEADLINE_S,
    )


def ends(page: ClientConnection) -> int:
    try:
        while True:
            page.recv(timeout=DEADLINE_S)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0


def test_everything_that_was_open_ends(
    site: SerialSite,
    displays: list[socket.socket],
    fake: FakeHypervisor,
    teammate: User,
    owner: User,
    admin: User,
    vm: VM,
    browser: Callable[[User], Client],
) -> None:
    VM.objects.filter(pk=vm.pk).update(observed=VM.Observed.RUNNING, owner=teammate)
    vm.refresh_from_db()
    client = signed_in(teammate)
    key = client.session.session_key or ""
    _row, secret = tokens.issue(teammate, "cli", ("read", "write"), None)
    asked = {"headers": {"Authorization": f"Bearer {secret}"}, "timeout": DEADLINE_S}
    me = f"http://127.0.0.1:{site.port}/api/v1/me"
    assert httpx.get(me, **asked).status_code == 200
    # A ticket of somebody else's console: theirs goes on.
    theirs = tickets.issue(user=owner, vm=vm, kind="serial", mode="view").secret
    unused = tickets.issue(user=teammate, vm=vm, kind="vnc", session_key=key).secret
    screen = tickets.issue(user=teammate, vm=vm, kind="vnc", session_key=key).secret
    line = tickets.issue(user=teammate, vm=vm, kind="serial", session_key=key).secret
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(dial(site, "/ws/live", key))
        console = stack.enter_context(dial(site, "/ws/console/vnc", key, ticket=screen))
        console.send(HELLO)
        wait_for(lambda: bool(displays), "the screen was not opened")
        assert displays[0].recv(len(HELLO))
        terminal = stack.enter_context(Terminal(dial(site, "/ws/console/serial", key, ticket=line)))
        terminal.until_told(type="live")
        other = stack.enter_context(site.open(theirs))
        other.until_told(type="live")

        done = browser(admin).post(f"/admin/users/{teammate.pk}/active/", {"active": "0"})
        assert done.status_code == 302

        assert close_code(console) == gate.CLOSE_CODES["revoked"]
        assert terminal.until_closed() == gate.CLOSE_CODES["revoked"]
        assert ends(page) == consumers.SIGNED_OUT
        fake.lines[vm.uuid].receive(b"still here\r\n")
        other.until_shown(b"still here")
    assert client.get("/profile/").status_code == 302
    assert httpx.get(me, **asked).status_code == 401
    assert refusal(site, unused, key)
    vm.refresh_from_db()
    assert (vm.owner, vm.observed) == (teammate, VM.Observed.RUNNING)
    assert AuditEntry.objects.filter(verb="user.deactivate", target_id=str(teammate.pk)).exists()

    # Back again they sign in anew: nothing of before comes to life.
    browser(admin).post(f"/admin/users/{teammate.pk}/active/", {"active": "1"})
    assert client.get("/profile/").status_code == 302
    assert httpx.get(me, **asked).status_code == 401
    assert signed_in(teammate).get("/profile/").status_code == 200


def refusal(site: SerialSite, secret: str, key: str) -> int:
    """How a console that is asked for too late ends."""
    try:
        with dial(site, "/ws/console/vnc", key, ticket=secret) as late:
            return close_code(late)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1
