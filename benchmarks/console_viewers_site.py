"""The site for ``benchmarks/console_viewers.py``, whose only machine shows a busy screen.

    uvicorn benchmarks.console_viewers_site:application ...
    python -m benchmarks.console_viewers_site tickets 30      # to view, one a line
    python -m benchmarks.console_viewers_site display PATH    # the screen, on a unix socket

Only what a hypervisor would do is put in its place: a ready connection to the display.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid

import numpy as np

from kvmweb.asgi import application  # sets Django up

__all__ = ["application"]

from django.contrib.auth import get_user_model

from tests.consoles.displays import Display
from vms.consoles import sessions, targets, tickets
from vms.models import VM

WIDTH, HEIGHT = 1024, 768
VIDEO = 320, 240  # a part that moves like a film
LINE = 16  # pixels that the text scrolls by
PER_SECOND = 30


async def open_display(_vm: VM) -> targets.Target:
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.environ["KVMWEB_BENCH_DISPLAY"])
    return targets.SocketTarget(line)


targets.open_vnc = open_display
sessions.PER_USER = sessions.PER_VM = tickets.ISSUES_PER_MINUTE = 1_000_000


def machine() -> VM:
    found = VM.objects.first()
    if found is not None:
        return found
    from accounts.models import Team
    from hosts.models import Host

    owner = get_user_model().objects.create_user("bench", "bench@example.test", None)
    return VM.objects.create(
        uuid=uuid.uuid4(),
        name="bench",
        domain_name="bench",
        hostname="bench",
        owner=owner,
        team=Team.objects.create(name="bench", kind=Team.Kind.TEAM),
        host=Host.objects.create(name="bench", transport=Host.Transport.LOCAL),
        vcpus=1,
        memory_mib=64,
        observed=VM.Observed.RUNNING,
    )


def print_tickets(count: int) -> None:
    vm = machine()
    for _ in range(count):
        print(tickets.issue(user=vm.owner, vm=vm, mode="view").secret)


async def show(path: str) -> None:
    """Text that scrolls beside a film: each changes ``PER_SECOND`` times a second."""
    display = Display(WIDTH, HEIGHT)
    random = np.random.default_rng(1)
    text = random.choice(np.array([0, 0xC0C0C0], np.uint32), (HEIGHT * 2, WIDTH), p=[0.8, 0.2])
    waves = np.add.outer(np.arange(VIDEO[1] * 4), np.arange(VIDEO[0] * 4)).astype(np.uint32)
    film = (waves * 7 % 256 << 16 | waves * 3 % 256 << 8 | waves * 5 % 256).astype(np.uint32)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await display.serve(reader, writer)

    await asyncio.start_unix_server(serve, path)
    frame = 0
    while True:
        frame += 1
        at = frame * LINE % HEIGHT
        display.draw(0, 0, text[at : at + HEIGHT, : WIDTH - VIDEO[0]])
        shift = frame * 5 % (VIDEO[0] * 2)
        display.draw(WIDTH - VIDEO[0], 0, film[shift : shift + VIDEO[1], shift : shift + VIDEO[0]])
        await asyncio.sleep(1 / PER_SECOND)


if __name__ == "__main__":
    if sys.argv[1] == "tickets":
        print_tickets(int(sys.argv[2]))
    else:
        asyncio.run(show(sys.argv[2]))
