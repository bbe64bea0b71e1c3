"""Admins see and steer hosts; for everybody else these pages are not there to be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from accounts.errors import Invalid
from accounts.models import User
from hosts import connections, services
from hosts.models import Host, Network, Pool, Untracked
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from vms.models import VM

Browser = Callable[[User], Client]


@pytest.fixture
def fake(host: Host, pool: Pool, network: Network) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("alpha")
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


@pytest.fixture
def pages(fake: FakeHypervisor, browser: Browser, admin: User) -> Client:
    return browser(admin)


def test_only_admins(
    host: Host, browser: Browser, owner: User, teammate: User, outsider: User, vm: VM
) -> None:
    for person in (owner, teammate, outsider):
        client = browser(person)
        for path in ("/admin/hosts/", "/admin/hosts/new/", f"/admin/hosts/{host.pk}/"):
            assert client.get(path).status_code == 403, (person, path)
        for verb in ("refresh", "probe", "mode", "acceleration", "limits", "sweep", "remove"):
            assert client.post(f"/admin/hosts/{host.pk}/{verb}/").status_code == 403
    assert not Job.objects.exists()
    assert Client().get("/admin/hosts/").status_code == 302


def test_the_list_and_the_page_say_what_is_there(pages: Client, host: Host, vm: VM) -> None:
    host.checks = [{"key": "tun", "result": "fail", "params": {}}]
    host.checked_at = timezone.now()
    host.save()
    listed = pages.get("/admin/hosts/").content.decode()
    assert "alpha" in listed
    assert "1 finding" in listed
    page = pages.get(f"/admin/hosts/{host.pk}/").content.decode()
    assert "no machine can have a network card" in page
    assert "web-1" in page
    assert "192.168.122.0/24" in page


def test_an_unreachable_host_says_since_when_and_why(pages: Client, host: Host) -> None:
    Host.objects.update(
        reach="down",
        reach_since=timezone.now(),
        error_code="virt.host_unreachable",
        error_ref="abc123",
    )
    page = pages.get(f"/admin/hosts/{host.pk}/").content.decode()
    assert "This host does not answer" in page
    assert "abc123" in page


def test_pages_ask_no_hypervisor_and_few_queries(
    pages: Client,
    host: Host,
    fake: FakeHypervisor,
    make_vm: Callable[..., VM],
    owner: User,
    team: Any,
    django_assert_max_num_queries: Callable[..., Any],
) -> None:
    for number in range(25):
        make_vm(owner, team, f"m{number}")
        Untracked.objects.create(
            host=host, kind="volume", name=f"v{number}", tagged=True, seen_at=timezone.now()
        )
    fake.unplug()
    before = dict(fake.calls)
    with django_assert_max_num_queries(30):
        assert pages.get(f"/admin/hosts/{host.pk}/").status_code == 200
    with django_assert_max_num_queries(16):
        assert pages.get("/admin/hosts/").status_code == 200
    assert dict(fake.calls) == before


@pytest.mark.parametrize("part", ["state"])
def test_the_live_part_is_one_element(pages: Client, host: Host, part: str) -> None:
    fragment = pages.get(f"/admin/hosts/{host.pk}/?part={part}").content.decode().strip()
    assert fragment.startswith('<div id="host"')
    assert "<html" not in fragment
    assert pages.get(f"/admin/hosts/{host.pk}/?part=other").status_code == 404


def test_what_an_admin_does(pages: Client, host: Host) -> None:
    def post(verb: str, **data: str) -> None:
        answer = pages.post(f"/admin/hosts/{host.pk}/{verb}/", data)
        assert answer.status_code == 302, (verb, answer.content[:300])
        host.refresh_from_db()

    post("mode", mode="maintenance")
    assert host.mode == Host.Mode.MAINTENANCE
    post("mode", mode="active")
    assert host.mode == Host.Mode.ACTIVE
    post("acceleration", acceleration_override="kvm")
    assert host.domain_type == "kvm"
    post("refresh")
    post("probe")
    post("sweep")
    kinds = set(Job.objects.values_list("kind", flat=True))
    assert kinds == {"host.refresh", "host.probe", "host.sweep"}
    pool = host.pools.get()
    post(
        "limits",
        vcpu_ratio="2",
        memory_reserve_mib="4096",
        disk_ratio="1",
        default_pool=str(pool.pk),
    )
    assert (host.vcpu_ratio, host.memory_reserve_mib, host.disk_ratio) == (2, 4096, 1)


def test_where_backups_go(pages: Client, host: Host) -> None:
    """A pool, or a directory that becomes one; beside the disks again."""
    path = f"/admin/hosts/{host.pk}/backups/"
    pool = host.pools.get()
    assert pages.post(path, {"pool": str(pool.pk)}).status_code == 302
    assert Host.objects.get(pk=host.pk).backup_pool == pool
    assert pages.post(path, {"pool": ""}).status_code == 302
    assert Host.objects.get(pk=host.pk).backup_pool is None
    elsewhere = Pool.objects.create(
        host=Host.objects.create(name="beta", transport="local"), name="p", uuid=uuid4(), kind="dir"
    )
    for wrong in ({"pool": str(elsewhere.pk)}, {"pool": "x"}):
        assert pages.post(path, wrong).status_code in {302, 422}
        assert Host.objects.get(pk=host.pk).backup_pool is None
    for folder in ("/", "mnt/x", "/mnt/../etc", "/mnt/a b", "/mnt/$(id)", "/" + "x" * 300):
        with pytest.raises(Invalid):
            services.request_backup_folder(host, folder, actor=None)
    assert pages.post(path, {"folder": "/mnt/vault/"}).status_code == 302
    job = Job.objects.get(kind="host.backup_folder")
    with connections.use_fake({host.name: FakeHypervisor(host.name)}):
        for _ in range(2):  # and again: harmless
            services.use_backup_folder(host.pk, job.params["path"], None)
    chosen = Host.objects.get(pk=host.pk).backup_pool
    assert chosen is not None
    assert (chosen.path, chosen.active, chosen.is_default) == ("/mnt/vault", True, False)


def test_wrong_limits_are_shown_at_their_field(pages: Client, host: Host) -> None:
    answer = pages.post(
        f"/admin/hosts/{host.pk}/limits/", {"vcpu_ratio": "-1", "memory_reserve_mib": "x"}
    )
    assert answer.status_code == 422
    assert host.vcpu_ratio == Host.objects.get().vcpu_ratio


def test_a_host_is_added_in_the_page(pages: Client) -> None:
    wrong = pages.post(
        "/admin/hosts/new/", {"name": "beta", "transport": "unix", "socket_path": "x?y"}
    )
    assert wrong.status_code == 422
    assert "a libvirt URI is never typed" in wrong.content.decode()
    right = pages.post(
        "/admin/hosts/new/", {"name": "beta", "transport": "unix", "socket_path": "/run/b"}
    )
    assert right.status_code == 302
    assert Job.objects.filter(kind="host.refresh", host__name="beta").exists()


def test_a_host_is_removed_in_the_page(pages: Client, host: Host) -> None:
    answer = pages.post(f"/admin/hosts/{host.pk}/remove/")
    assert answer.status_code == 302
    assert not Host.objects.exists()


# --- the API ---------------------------------------------------------------------------------


def test_the_api_tells_admins_all_and_others_what_concerns_them(
    host: Host, pool: Pool, network: Network, api: Any, admin: User, outsider: User
) -> None:
    host.checks = [{"key": "tun", "result": "pass", "params": {}}]
    host.save()
    full = api(admin).get("/hosts").json()
    assert full["count"] == 1
    [one] = full["items"]
    assert one["capacity"]["memory_limit_mib"] == 65536 - 1024
    assert one["pools"][0]["is_default"] is True
    assert one["checks"][0]["text"]
    for path in ("/hosts", f"/hosts/{host.pk}"):
        answer = api(outsider).get(path).json()
        [seen] = answer.get("items", [answer])
        told = {key for key, value in seen.items() if value is not None}
        assert told <= {"id", "name", "reach", "mode", "acceleration"}
        assert seen["acceleration"] == "emulation"
    assert api(admin).get("/hosts/99999").status_code == 404
    assert Client().get("/api/v1/hosts").status_code == 401
