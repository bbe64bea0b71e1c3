"""Run by ``test_quota_race``: forty processes ask for one machine each, where ten fit.

``python quota_race.py <processes>`` with ``KVMWEB_DATABASE_URL`` set; prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
LIMIT = 10
THREADS = 10


def prepare(asks: int) -> list[int]:
    from django.core.management import call_command

    from accounts import services
    from accounts.models import QuotaLimit
    from vms.models import VM

    call_command("migrate", verbosity=0)
    user = services.create_user(None, "racer", "", None)
    QuotaLimit.objects.filter(scope="site", resource="machines").update(hard=LIMIT)
    return [
        VM.objects.create(
            name=f"m{n}",
            domain_name=uuid.uuid4().hex,
            owner=user,
            team=user.personal_team,
            vcpus=1,
            memory_mib=256,
            hostname=f"m{n}",
        ).pk
        for n in range(asks)
    ]


def ask(vm_id: int) -> str:
    from django.db import connection, transaction

    from accounts import quotas
    from accounts.errors import QuotaExceeded
    from accounts.models import Resource
    from vms.models import VM

    try:
        with transaction.atomic():
            vm = VM.objects.get(pk=vm_id)
            quotas.allocate(vm, {Resource.MACHINES: 1, Resource.SNAPSHOTS: 1})
    except QuotaExceeded as exc:
        return f"refused:{exc.params['missing']}"
    except Exception as exc:  # noqa: BLE001 - the test shows what went wrong
        return f"{type(exc).__name__}: {exc}"
    else:
        return "allocated"
    finally:
        connection.close()


def work(vm_ids: list[int], gate: object) -> list[str]:
    import django

    django.setup()
    with ThreadPoolExecutor(THREADS) as pool:
        gate.wait()  # type: ignore[attr-defined]
        return list(pool.map(ask, vm_ids))


def child(vm_ids: list[int], gate: object, answers: object) -> None:
    answers.put(work(vm_ids, gate))  # type: ignore[attr-defined]


def main(processes: int) -> None:
    import django

    django.setup()
    from django.db import connection, connections

    vm_ids = prepare(processes * THREADS)
    connections.close_all()
    context = get_context("spawn")
    gate, answers = context.Barrier(processes), context.Queue()
    children = [
        context.Process(target=child, args=(vm_ids[n::processes], gate, answers))
        for n in range(processes)
    ]
    for one in children:
        one.start()
    told = Counter(word for _ in children for word in answers.get(timeout=120))
    for one in children:
        one.join()
    from accounts.models import Allocation

    rows = Allocation.objects.filter(resource="machines").count()
    print(json.dumps({"vendor": connection.vendor, "told": told, "allocated": rows}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
