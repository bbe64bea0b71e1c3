"""The list of machines at 100, 1,000 and 10,000 rows: server time, SQL count, hypervisor calls.

    .venv/bin/python benchmarks/list_page.py

Ratios are against the 100 rows of the same run. The page must not grow with the number of
machines (design, promise 1): it reads the database only, and no more queries for more rows.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import uuid
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
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import services
from accounts.models import Team, User
from hosts import connections
from hosts.models import Host
from vms.models import VM, Disk, Image, Nic, Tag

ROUNDS = 7
PAGE_SIZE = 50
SIZES = (100, 1_000, 10_000)
PAGES = {"first": "", "last": "?page={last}", "search": "?q=web-9", "sorted": "?sort=-cpu"}


def grow_to(count: int, *, owner: User, team: Team, hosts: list[Host], image: Image) -> None:
    """Add machines, their disks, NICs and tags, until there are ``count``."""
    have = VM.objects.count()
    states = list(VM.Observed.values)
    VM.objects.bulk_create(
        [
            VM(
                name=f"web-{number}",
                domain_name=f"web-{number}",
                hostname=f"web-{number}",
                owner=owner,
                team=team,
                host=hosts[number % len(hosts)],
                image=image,
                vcpus=1 + number % 4,
                memory_mib=1024,
                observed=states[number % len(states)],
                cpu_percent=number % 100,
            )
            for number in range(have, count)
        ],
        batch_size=500,
    )
    made = list(VM.objects.order_by("id")[have:])
    Disk.objects.bulk_create(
        [Disk(vm=vm, volume=f"kvmweb-{vm.uuid}-vda.qcow2", size_gib=10) for vm in made],
        batch_size=500,
    )
    Nic.objects.bulk_create(
        [
            Nic(
                vm=vm,
                mac=f"52:54:00:{vm.id >> 16 & 255:02x}:{vm.id >> 8 & 255:02x}:{vm.id & 255:02x}",
                network="default",
                addresses=[f"10.{vm.id >> 16 & 255}.{vm.id >> 8 & 255}.{vm.id & 255}"],
            )
            for vm in made
        ],
        batch_size=500,
    )
    Tag.objects.bulk_create([Tag(vm=vm, name=f"tag-{vm.id % 20}") for vm in made], batch_size=500)


def measure(client: Client, url: str) -> dict[str, Any]:
    client.get(url)  # templates are compiled once
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = client.get(url)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (url, answer.status_code)
    with CaptureQueriesContext(connection) as queries:
        client.get(url)
    return {
        "ms": round(statistics.median(times), 1),
        "sql": len(queries),
        "kib": round(len(answer.content) / 1024),
    }


def main() -> None:
    call_command("migrate", verbosity=0)
    calls: list[str] = []

    def refuse(host: Host) -> Any:
        calls.append(host.name)
        raise AssertionError("a page asked a hypervisor")

    connections.hypervisor = refuse  # type: ignore[assignment]
    owner = services.create_user(None, "owner", "", "correct horse battery", is_staff=False)
    team = owner.personal_team
    hosts = [
        Host.objects.create(name=name, transport=Host.Transport.LOCAL, reach=Host.Reach.UP)
        for name in ("a", "b", "c")
    ]
    image = Image.objects.create(
        name="Debian 12", source=Image.Source.BUILT, state=Image.State.READY, published=True
    )
    client = Client(SERVER_NAME="localhost")
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    found: dict[str, Any] = {}
    for size in SIZES:
        grow_to(size, owner=owner, team=team, hosts=hosts, image=image)
        found[str(size)] = {
            name: measure(client, "/machines/" + query.format(last=size // PAGE_SIZE))
            for name, query in PAGES.items()
        }
    base = found[str(SIZES[0])]["first"]["ms"]
    print(
        json.dumps(
            {
                "benchmark": "list_page",
                "machines": found,
                "ratio_first_page": {
                    size: round(pages["first"]["ms"] / base, 2) for size, pages in found.items()
                },
                "sql_constant": len({pages["first"]["sql"] for pages in found.values()}) == 1,
                "hypervisor_calls": len(calls),
                "run": str(uuid.uuid4())[:8],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
