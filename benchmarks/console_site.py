"""The site's two console carriers for ``benchmarks/console.py``, showing a display of its own.

    uvicorn benchmarks.console_site:application ...          # the carrier ``asgi``
    python -m benchmarks.console_site websockify --port N    # the carrier ``websockify``
    python -m benchmarks.console_site tickets                # a ticket for each line of its input

Only what a hypervisor would do is put in its place: a ready connection to the display at
``KVMWEB_BENCH_DISPLAY``, and limits that let one person open as many consoles as are measured.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import uuid
from typing import Any

from kvmweb.asgi import application  # sets Django up

__all__ = ["application"]

from django.contrib.auth import get_user_model
from django.core.management import call_command

from vms.consoles import sessions, targets, tickets
from vms.models import VM

NO_LIMIT = 1_000_000


def open_display(_vm: VM) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.environ["KVMWEB_BENCH_DISPLAY"])
    return line


targets.open_vnc_socket = open_display
sessions.PER_USER = sessions.PER_VM = tickets.ISSUES_PER_MINUTE = NO_LIMIT


def machine() -> VM:
    """The machine that is looked at; made when it is not there."""
    from accounts.models import Membership, Team
    from hosts.models import Host

    found = VM.objects.first()
    if found is not None:
        return found
    owner = get_user_model().objects.create_user(
        username="bench", email="bench@example.test", password=None
    )
    team = Team.objects.create(name="bench", kind=Team.Kind.TEAM)
    Membership.objects.create(team=team, user=owner, role=Membership.Role.MANAGER)
    host = Host.objects.create(name="bench", transport=Host.Transport.LOCAL)
    return VM.objects.create(
        uuid=uuid.uuid4(),
        name="bench",
        domain_name="bench",
        hostname="bench",
        owner=owner,
        team=team,
        host=host,
        vcpus=1,
        memory_mib=64,
        observed=VM.Observed.RUNNING,
    )


def secret() -> str:
    vm = machine()
    assert vm.owner is not None
    return tickets.issue(user=vm.owner, vm=vm, kind="vnc", mode="control").secret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["websockify", "tickets"])
    parser.add_argument("--port", type=int, default=0)
    asked: Any = parser.parse_args()
    if asked.what == "tickets":
        for _ in sys.stdin:
            print(secret(), flush=True)
    else:
        call_command("websockify", port=asked.port)


if __name__ == "__main__":
    main()
