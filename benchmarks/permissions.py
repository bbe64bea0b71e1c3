"""What the one door costs on a list of 100, 1,000 and 10,000 machines: time and SQL count.

    .venv/bin/python benchmarks/permissions.py

Somebody's list of machines, of ten teams with all roles, some theirs, some shared with them, is
read once bare, and once with every machine asked for each of the seven actions that a page may
show, as lists ask: by one door. The SQL count must not grow with the number of machines.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ["KVMWEB_VAR"] = tempfile.mkdtemp(prefix="kvmweb-bench-")
os.environ["DJANGO_SETTINGS_MODULE"] = "kvmweb.settings.test"

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django

django.setup()

from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import policy, services
from accounts.models import MachineShare, Membership, Team, User
from accounts.policy import Action
from vms.models import VM

ROUNDS = 7
SIZES = (100, 1_000, 10_000)
TEAMS = 10
SHARED_EVERY = 7  # a machine of a stranger's that is shared with the person
ACTIONS = (
    Action.SEE,
    Action.POWER,
    Action.CONSOLE_VIEW,
    Action.CONSOLE_CONTROL,
    Action.EDIT,
    Action.DELETE,
    Action.SHARE,
)


def grow_to(count: int, *, person: User, other: User, teams: list[Team]) -> None:
    have = VM.objects.count()
    made = []
    for number in range(have, count):
        shared = number % SHARED_EVERY == 0
        made.append(
            VM(
                name=f"web-{number}",
                domain_name=f"web-{number}",
                hostname=f"web-{number}",
                owner=person if number % 3 == 0 and not shared else other,
                team=other.personal_team if shared else teams[number % TEAMS],
                vcpus=1,
                memory_mib=1024,
            )
        )
    VM.objects.bulk_create(made, batch_size=500)
    roles = MachineShare.Role.values
    MachineShare.objects.bulk_create(
        MachineShare(machine=vm.uuid, user=person, role=roles[n % len(roles)], granted_by=other)
        for n, vm in enumerate(made)
        if vm.team_id == other.personal_team.pk
    )


def measure(act: Callable[[], int]) -> dict[str, Any]:
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()  # of this process: the database is in it
        found = act()
        times.append((time.process_time() - began) * 1000)
    with CaptureQueriesContext(connection) as queries:
        act()
    return {"cpu_ms": round(statistics.median(times), 1), "sql": len(queries), "found": found}


def main() -> None:
    call_command("migrate", verbosity=0)
    person = services.create_user(None, "person", "", None)
    other = services.create_user(None, "other", "", None)
    teams = [Team.objects.create(name=f"t{n}", kind=Team.Kind.TEAM) for n in range(TEAMS)]
    roles = Membership.Role.values
    for n, team in enumerate(teams):
        Membership.objects.create(team=team, user=person, role=roles[n % len(roles)])

    def bare() -> int:
        return len(list(VM.objects.visible_to(person)))

    def asked() -> int:
        door = policy.door(person)
        return sum(door.can(what, vm) for vm in VM.objects.visible_to(person) for what in ACTIONS)

    found: dict[str, Any] = {}
    for size in SIZES:
        grow_to(size, person=person, other=other, teams=teams)
        plain, checked = measure(bare), measure(asked)
        assert plain["found"] == size
        cost_us = (checked["cpu_ms"] - plain["cpu_ms"]) * 1000 / (size * len(ACTIONS))
        found[str(size)] = {
            "bare": plain,
            "checked": checked,
            "ratio": round(checked["cpu_ms"] / plain["cpu_ms"], 2),
            "us_each_check": round(cost_us, 1),
        }
    counts = {result["checked"]["sql"] for result in found.values()}
    print(
        json.dumps(
            {"benchmark": "permissions", "machines": found, "sql_constant": len(counts) == 1},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
