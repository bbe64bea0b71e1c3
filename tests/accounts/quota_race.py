"""Run by ``test_quota_race``: forty at once, in several processes.

``python quota_race.py <processes> <what>`` with ``KVMWEB_DATABASE_URL`` of a fresh, migrated
database; prints JSON. *machines*: forty ask for one each, where ten fit. *mix*: 32 creates where
six fit, and eight starts where five fit, through the real services. *growth*: creates, resizes,
restores and starts through the API. *decide*: two admins approve and the requester withdraws the
same request, for twelve requests.
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


def prepare_mix() -> list[tuple[str, int]]:
    import uuid as uuids

    from accounts import quotas, services
    from accounts.models import QuotaLimit, Resource
    from hosts.models import Host, Network
    from vms.models import VM, Image

    user = services.create_user(None, "racer", "", None)
    host = Host.objects.create(name="a", transport="local", reach="up", cpus=64, memory_mib=1 << 20)
    Network.objects.create(
        host=host, name="default", uuid=uuids.uuid4(), kind="nat", active=True, public=True
    )
    Image.objects.create(
        name="Tiny",
        state="ready",
        published=True,
        format="qcow2",
        virtual_size_bytes=1 << 30,
        has_cloud_init=False,
    )
    limits = {"machines": 14, "running_machines": 5, "vcpus": 999}
    for resource, hard in limits.items():
        QuotaLimit.objects.filter(scope="site", resource=resource).update(hard=hard)
    stopped = [
        VM.objects.create(
            name=f"s{n}",
            domain_name=uuids.uuid4().hex,
            owner=user,
            team=user.personal_team,
            host=host,
            vcpus=1,
            memory_mib=256,
            hostname=f"s{n}",
            observed="shutoff",
            desired="stopped",
        )
        for n in range(8)
    ]
    for vm in stopped:
        quotas.count(vm, {Resource.MACHINES: 1})
    asks = [("start", vm.pk) for vm in stopped] + [("create", n) for n in range(32)]
    return [asks[n * 7 % 40] for n in range(40)]  # mixed among the processes


def mix(asked: tuple[str, int]) -> str:
    from django.db import connection

    from accounts.errors import QuotaExceeded
    from accounts.models import User
    from vms import lifecycle, provisioning
    from vms.models import VM, Image

    what, number = asked
    try:
        user = User.objects.get(username="racer")
        if what == "start":
            lifecycle.request(VM.objects.get(pk=number), "start", actor=user)
        else:
            provisioning.request_vm(
                actor=user,
                team=None,
                name=f"c{number}",
                image=Image.objects.get(),
                vcpus=1,
                memory_mib=256,
                disk_gib=1,
                start=False,
            )
    except QuotaExceeded as exc:
        return f"{what} refused:{exc.params['resource']}"
    except Exception as exc:  # noqa: BLE001 - the test shows what went wrong
        return f"{what} {type(exc).__name__}: {exc} {getattr(exc, 'fields', '')}"
    else:
        return f"{what} done"
    finally:
        connection.close()


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


def prepare_growth() -> list[tuple[str, str, str, str]]:
    """Through the API: 16 creates, eight resizes and eight restores want 32 vCPUs where twelve
    fit; eight starts want eight running ones where four fit."""
    prepare_mix()
    from datetime import timedelta

    from django.utils import timezone

    from accounts import quotas, tokens
    from accounts.models import Allocation, QuotaLimit, Resource, User
    from vms.models import VM, Image

    user = User.objects.get()
    token = tokens.issue(user, "race", ["read", "write"], None)[1]
    Allocation.objects.all().delete()
    QuotaLimit.objects.update(hard=-1)
    for resource, hard in {"vcpus": 28, "running_vcpus": 4}.items():
        QuotaLimit.objects.filter(scope="site", resource=resource).update(hard=hard)
    sizes = {Resource.MACHINES: 1, Resource.VCPUS: 1, Resource.MEMORY_MIB: 256}
    starts = list(VM.objects.order_by("pk"))
    more = [
        VM.objects.create(
            name=f"{word}{n}",
            domain_name=uuid.uuid4().hex,
            owner=user,
            team=user.personal_team,
            host=starts[0].host,
            vcpus=1,
            memory_mib=256,
            hostname=f"{word}{n}",
            observed="shutoff",
            desired="stopped",
        )
        for word in ("size", "bin")
        for n in range(8)
    ]
    for vm in (*starts, *more[:8]):
        quotas.count(vm, sizes)
    now = timezone.now()
    VM.objects.filter(name__startswith="bin").update(
        binned_at=now, bin_until=now + timedelta(days=7)
    )
    body = {"image": Image.objects.get().pk, "vcpus": 1, "memory_mib": 256, "disk_gib": 1}
    made = [json.dumps(body | {"name": f"new{n}", "start": False}) for n in range(16)]
    asks = [
        *(("start", "POST", f"/vms/{vm.uuid}/start", "") for vm in starts),
        *(("grow", "PUT", f"/vms/{vm.uuid}/hardware/size", '{"vcpus": 2}') for vm in more[:8]),
        *(("grow", "POST", f"/vms/{vm.uuid}/take-back", "{}") for vm in more[8:]),
        *(("grow", "POST", "/vms", one) for one in made),
    ]
    os.environ["RACE_TOKEN"] = token  # for the children
    return [asks[n * 7 % 40] for n in range(40)]  # mixed among the processes


def grow(asked: tuple[str, str, str, str]) -> str:
    from django.db import connection
    from django.test import Client

    what, method, path, body = asked
    try:
        answer = Client(headers={"Host": "localhost"}).generic(
            method,
            f"/api/v1{path}",
            body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {os.environ['RACE_TOKEN']}", "Host": "localhost"},
        )
        if answer.status_code == 202:
            return f"{what} done"
        told = answer.json()
        return f"{what} {told['code']}:{told['params'].get('resource', told)}"
    except Exception as exc:  # noqa: BLE001 - the test shows what went wrong
        return f"{what} {type(exc).__name__}: {exc}"
    finally:
        connection.close()


WAYS = {
    "machines": (prepare, ask),
    "mix": (prepare_mix, mix),
    "growth": (prepare_growth, grow),
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
    from django.db import connection, connections
    from django.db.models import Sum

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
    from accounts.models import Allocation, QuotaGrant, QuotaRequest

    used = Allocation.objects.order_by().values("resource").annotate(total=Sum("amount"))
    found = {
        "vendor": connection.vendor,
        "told": told,
        "allocated": {row["resource"]: row["total"] for row in used},
        "approved": QuotaRequest.objects.filter(state="approved").count(),
        "withdrawn": QuotaRequest.objects.filter(state="withdrawn").count(),
        "grants": QuotaGrant.objects.count(),
    }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
