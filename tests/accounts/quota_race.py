"""Run by ``test_quota_race``, with ``KVMWEB_DATABASE_URL`` of a fresh, migrated database.

``python quota_race.py 4 <what>``: forty at once, in four processes; prints JSON. *machines*: forty
ask for one each, where ten fit. *decide*: two admins approve and the requester withdraws the same
request, for twelve requests.

``python quota_race.py seed <what>``: what forty send to the site at once, as JSON. *creates*: as
many machines, where ten fit. *growth*: creates, resizes, restores and starts. ``python
quota_race.py left``: what there is afterwards.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
LIMIT = 10
THREADS = 10


def prepare(asks: int) -> list[int]:
    from accounts import services
    from accounts.models import QuotaLimit
    from vms.models import VM

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


def prepare_site(stopped: int) -> list[Any]:
    """A person, a host, an image, and so many machines of theirs that are off."""
    from accounts import services
    from hosts.models import Host, Network
    from vms.models import Image

    services.create_user(None, "racer", "", None)
    host = Host.objects.create(name="a", transport="local", reach="up", cpus=64, memory_mib=1 << 20)
    Network.objects.create(
        host=host, name="default", uuid=uuid.uuid4(), kind="nat", active=True, public=True
    )
    Image.objects.create(
        name="Tiny",
        state="ready",
        published=True,
        format="qcow2",
        virtual_size_bytes=1 << 30,
        has_cloud_init=False,
    )
    return [stopped_machine(f"s{n}") for n in range(stopped)]


def stopped_machine(name: str) -> Any:
    from accounts.models import User
    from hosts.models import Host
    from vms.models import VM

    user = User.objects.get()
    return VM.objects.create(
        name=name,
        domain_name=uuid.uuid4().hex,
        owner=user,
        team=user.personal_team,
        host=Host.objects.get(),
        vcpus=1,
        memory_mib=256,
        hostname=name,
        observed="shutoff",
        desired="stopped",
    )


def limit(**hard: int) -> None:
    from accounts.models import QuotaLimit

    QuotaLimit.objects.update(hard=-1)
    for resource, value in hard.items():
        QuotaLimit.objects.filter(scope="site", resource=resource).update(hard=value)


def prepare_decide() -> list[tuple[str, int]]:
    from accounts import requests, services
    from accounts.models import Resource
    from accounts.requests import asking

    user = services.create_user(None, "racer", "", None)
    for name in ("one", "two"):
        services.create_user(None, name, "", None, is_staff=True)
    asks = []
    asking.OPEN_MAX = 99
    for _ in range(12):
        made = requests.ask(
            actor=user, team=user.personal_team, amounts={Resource.VCPUS: 1}, reason="why"
        )
        asks += [("one", made.pk), ("racer", made.pk), ("two", made.pk)]
    return asks


def decide(asked: tuple[str, int]) -> str:
    from django.db import connection

    from accounts import requests
    from accounts.errors import Conflict
    from accounts.models import QuotaRequest, User

    who, number = asked
    try:
        person = User.objects.get(username=who)
        request = QuotaRequest.objects.select_related("team").get(pk=number)
        if who == "racer":
            requests.withdraw(request, actor=person)
        else:
            requests.approve(request, actor=person, version=1, granted={}, ends_at=None)
    except Conflict:
        return "told why"
    except Exception as exc:  # noqa: BLE001 - the test shows what went wrong
        return f"{who} {type(exc).__name__}: {exc}"
    else:
        return "done"
    finally:
        connection.close()


Sent = tuple[str, str, str, str]  # what it is, the method, the path in the API, the body


def creates(count: int) -> list[Sent]:
    from vms.models import Image

    body = {"image": Image.objects.get().pk, "vcpus": 1, "memory_mib": 256, "disk_gib": 1}
    return [
        ("create", "POST", "/vms", json.dumps(body | {"name": f"new{n}", "start": False}))
        for n in range(count)
    ]


def seed_creates() -> list[Sent]:
    prepare_site(0)
    limit(machines=LIMIT)
    return creates(40)


def seed_growth() -> list[Sent]:
    """16 creates, eight resizes and eight restores want 32 vCPUs where twelve fit; eight starts
    want eight running ones where four fit."""
    from datetime import timedelta

    from django.utils import timezone

    from accounts import quotas
    from accounts.models import Resource
    from vms.models import VM

    starts = prepare_site(8)
    limit(vcpus=28, running_vcpus=4)
    sizes = [stopped_machine(f"size{n}") for n in range(8)]
    bins = [stopped_machine(f"bin{n}") for n in range(8)]
    for vm in (*starts, *sizes):
        quotas.count(vm, {Resource.MACHINES: 1, Resource.VCPUS: 1, Resource.MEMORY_MIB: 256})
    now = timezone.now()
    VM.objects.filter(pk__in=[vm.pk for vm in bins]).update(
        binned_at=now, bin_until=now + timedelta(days=7)
    )
    asks = [
        *(("start", "POST", f"/vms/{vm.uuid}/start", "") for vm in starts),
        *(("grow", "PUT", f"/vms/{vm.uuid}/hardware/size", '{"vcpus": 2}') for vm in sizes),
        *(("grow", "POST", f"/vms/{vm.uuid}/take-back", "{}") for vm in bins),
        *(("grow", *rest) for _what, *rest in creates(16)),
    ]
    return [asks[n * 7 % 40] for n in range(40)]  # mixed


SEEDS = {"creates": seed_creates, "growth": seed_growth}


def seed(what: str) -> dict[str, Any]:
    from accounts import tokens
    from accounts.models import User

    asks = SEEDS[what]()
    return {"asks": asks, "token": tokens.issue(User.objects.get(), "race", ["write"], None)[1]}


def left() -> dict[str, Any]:
    from django.db import connection
    from django.db.models import Sum

    from accounts.models import Allocation, QuotaGrant, QuotaRequest
    from jobs.models import Job
    from vms import recount
    from vms.models import VM

    used = Allocation.objects.order_by().values("resource").annotate(total=Sum("amount"))
    return {
        "vendor": connection.vendor,
        "allocated": {row["resource"]: row["total"] for row in used},
        "approved": QuotaRequest.objects.filter(state="approved").count(),
        "withdrawn": QuotaRequest.objects.filter(state="withdrawn").count(),
        "grants": QuotaGrant.objects.count(),
        "machines": VM.objects.count(),
        "jobs": Job.objects.count(),
        "differences": recount.run(repair=False).differences,
    }


WAYS = {
    "machines": (prepare, ask),
    "decide": (prepare_decide, decide),
}


def work(asks: list[Any], gate: object, what: str) -> list[str]:
    import django

    django.setup()
    with ThreadPoolExecutor(THREADS) as pool:
        gate.wait()  # type: ignore[attr-defined]
        return list(pool.map(WAYS[what][1], asks))


def child(asks: list[Any], gate: object, answers: object, what: str) -> None:
    answers.put(work(asks, gate, what))  # type: ignore[attr-defined]


def main(processes: int, what: str) -> None:
    import django

    django.setup()
    from django.db import connections

    asks = prepare(processes * THREADS) if what == "machines" else WAYS[what][0]()
    connections.close_all()
    context = get_context("spawn")
    gate, answers = context.Barrier(processes), context.Queue()
    children = [
        context.Process(target=child, args=(asks[n::processes], gate, answers, what))
        for n in range(processes)
    ]
    for one in children:
        one.start()
    told = Counter(word for _ in children for word in answers.get(timeout=120))
    for one in children:
        one.join()
    print(json.dumps(left() | {"told": told}))  # noqa: T201


def by_hand(word: str, what: str) -> None:
    import django

    django.setup()
    print(json.dumps(seed(what) if word == "seed" else left()))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        main(int(sys.argv[1]), sys.argv[2])
    else:
        by_hand(sys.argv[1], sys.argv[-1])
