"""Allocations per second when everybody asks the same team, on PostgreSQL.

    .venv/bin/python -m benchmarks.quota [--seconds 4] [--processes 4] [--standing 10000]

Ours: ``quotas.allocate`` of four resources in a transaction (lock, limits, grants, sums, rows).
Bare: the same transaction with the row lock and the insert of the same rows, no check. The two take
turns, so that both see the same load of the machine. Prints JSON; goal: ratio at least 0.5.

The goal is judged in a team that begins each round empty. ``crowded`` is told beside it: the same
in a team that holds 10,000 allocations (about 1,400 machines) already, for usage is always the sum
of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

GOAL_RATIO = 0.5
ROUNDS = 5


def main() -> None:
    from tests import servers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of five rounds")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--standing", type=int, default=10_000, help="allocations; 0: leave out")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvmweb-bench-") as folder,
        servers.postgres().database() as url,
    ):
        os.environ.update(
            DJANGO_SETTINGS_MODULE="kvmweb.settings.base",
            KVMWEB_DATABASE_URL=url,
            KVMWEB_VAR=folder,
            KVMWEB_SECRET_KEY="bench",
        )
        vms = _prepare(asked.processes)
        found = measure(vms, asked.seconds, 0)
        found |= {"goal": GOAL_RATIO, "ok": found["ratio"] >= GOAL_RATIO}
        if asked.standing:
            found["crowded"] = measure(vms, asked.seconds, asked.standing)
        print(json.dumps(found, indent=2))


def measure(vms: list[int], seconds: float, standing: int) -> dict[str, Any]:
    processes = len(vms)
    context = get_context("spawn")
    gate = context.Barrier(processes)
    answers = context.Queue()
    children = [
        context.Process(target=_child, args=(vm, seconds, standing, gate, answers)) for vm in vms
    ]
    for one in children:
        one.start()
    told = [answers.get(timeout=300) for _ in children]
    for one in children:
        one.join()
    rates = {
        way: [sum(each[way][n] for each in told) / seconds for n in range(ROUNDS)]
        for way in ("ours", "bare")
    }
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
    return {
        "processes": processes,
        "standing": standing,
        "ours_per_s": round(statistics.median(rates["ours"])),
        "bare_per_s": round(statistics.median(rates["bare"])),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def _prepare(count: int) -> list[int]:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    from accounts import services
    from accounts.models import QuotaLimit
    from vms.models import VM

    call_command("migrate", verbosity=0)
    user = services.create_user(None, "bench", "", None)
    QuotaLimit.objects.filter(scope="site").update(hard=1 << 40)
    vms = [
        VM.objects.create(
            name=f"m{n}",
            domain_name=uuid.uuid4().hex,
            owner=user,
            team=user.personal_team,
            vcpus=1,
            memory_mib=256,
            hostname=f"m{n}",
        ).pk
        for n in range(count)
    ]
    connections.close_all()
    return vms


def _child(vm_id: int, seconds: float, standing: int, gate: Any, answers: Any) -> None:
    import django

    django.setup()
    from django.db import connection, transaction

    from accounts import quotas
    from accounts.models import Allocation, Resource, Team
    from vms.models import VM

    ask = {
        Resource.MACHINES: 1,
        Resource.VCPUS: 2,
        Resource.MEMORY_MIB: 2048,
        Resource.DISK_GIB: 20,
    }
    vm = VM.objects.get(pk=vm_id)

    def ours() -> None:
        with transaction.atomic():
            quotas.allocate(vm, ask)

    def rows(how_many: int) -> Iterator[Allocation]:
        for resource, amount in list(ask.items()) * (how_many // len(ask)):
            yield Allocation(
                vm_id=vm.pk,
                team_id=vm.team_id,
                user_id=vm.owner_id,
                resource=resource,
                amount=amount,
            )

    def bare() -> None:
        with transaction.atomic():
            Team.objects.select_for_update().get(pk=vm.team_id)
            Allocation.objects.bulk_create(rows(len(ask)))

    def begin() -> None:
        """A team of the wanted size: what a round adds is taken away, and the database tidied as
        its own autovacuum does."""
        Allocation.objects.all().delete()
        Allocation.objects.bulk_create(rows(standing))
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {Allocation._meta.db_table}")

    counts: dict[str, list[int]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        for way, act in (("ours", ours), ("bare", bare)):
            if gate.wait() == 0:
                begin()
            gate.wait()
            act()
            done, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                act()
                done += 1
            counts[way].append(done)
    answers.put(counts)


if __name__ == "__main__":
    main()
