"""Every WebSocket as each kind of person, as ``docs/contributor/access.md`` says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings

from jobs import routing as jobs_routing
from kvmweb.asgi import application
from tests.security import ways_in, ways_world
from tests.security.ways_in import Example, ask, outcome
from tests.security.ways_world import ROLES, World
from vms import routing as vms_routing
from vms.consoles import tickets
from vms.models import ConsoleControl

RULES, WAYS = ways_in.read()
SOCKETS = {way.removeprefix("WS "): rule for way, rule in WAYS.items() if way.startswith("WS ")}


def test_every_socket_stands_in_the_table() -> None:
    found = set()
    for route in (*jobs_routing.websocket_urlpatterns, *vms_routing.raw_websocket_routes):
        path = str(route.pattern).strip("^$")
        words = re.search(r"\((.*)\)", path)
        for word in words[1].split("|") if words else [""]:
            found.add("/" + re.sub(r"\(.*\)", word, path))
    assert found == set(SOCKETS)


@pytest.mark.django_db
@pytest.mark.parametrize("path", [path for path in SOCKETS if "console" in path])
def test_tickets_for_consoles(path: str, world: World) -> None:
    """Who gets one, and that it opens what was asked for and no more."""
    kind = "serial" if "serial" in path else "vnc"
    for mode, rule in (("view", SOCKETS[path]), ("control", "power")):
        for role in ROLES:
            example = Example(body={"kind": kind, "mode": mode})
            answer = ask(world, "POST /api/v1/vms/{uuid}/console", example, role)
            assert outcome(answer, example) == RULES[rule][role], (mode, role)
            if answer.status_code != 200:
                continue
            grant = tickets.redeem(answer.json()["protocols"][-1].partition(".")[2], kind=kind)
            assert (grant.user, grant.vm, grant.mode) == (world.people[role], world.vm, mode)
            ConsoleControl.objects.all().delete()


def socket(path: str, cookie: str | None) -> WebsocketCommunicator:
    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost")]
    if cookie is not None:
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return WebsocketCommunicator(application, path, headers=headers)


@pytest.mark.django_db(transaction=True)
async def test_who_gets_in_without_a_ticket() -> None:
    world: Any = await sync_to_async(ways_world.build)()
    for path, rule in SOCKETS.items():
        for role in ROLES:
            page = socket(path, world.cookies.get(role))
            accepted, _code = await page.connect(timeout=10)
            wanted = path == "/ws/live" and RULES[rule][role] == "yes"
            assert accepted is wanted, (path, role)
            await page.disconnect()
