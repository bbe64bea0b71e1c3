"""A new machine goes where it fits best, and nowhere when it fits nowhere, with the reason."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from accounts import messages
from accounts.errors import Conflict
from accounts.models import Team, User
from hosts import placement
from hosts.models import Host, Network, Pool
from vms.models import VM, Image, ImageCopy

GIB = 1024**3


@pytest.fixture
def make_host(db: None) -> Callable[..., Host]:
    def make(name: str, *, free_gib: int = 100, **fields: Any) -> Host:
        values: dict[str, Any] = {
            "transport": "local",
            "reach": "up",
            "arch": "x86_64",
            "cpus": 8,
            "memory_mib": 16384,
        }
        host = Host.objects.create(name=name, **(values | fields))
        Pool.objects.create(
            host=host,
            name="default",
            uuid=uuid.uuid4(),
            kind="dir",
            active=True,
            is_default=True,
            capacity_bytes=200 * GIB,
            available_bytes=free_gib * GIB,
        )
        Network.objects.create(
            host=host, name="default", uuid=uuid.uuid4(), kind="nat", active=True
        )
        return host

    return make


def choose(**changes: Any) -> Host:
    ask: dict[str, Any] = {
        "vcpus": 1,
        "memory_mib": 1024,
        "disk_bytes": 10 * GIB,
        "network": "default",
    }
    return placement.choose(**(ask | changes))


def refused(**changes: Any) -> Conflict:
    with pytest.raises(Conflict) as caught:
        choose(**changes)
    return caught.value


def said(error: Conflict) -> str:
    return messages.text(error.code, error.params)


def test_machines_spread(
    make_host: Callable[..., Host], make_vm: Callable[..., VM], owner: User, team: Team
) -> None:
    make_host("a")
    make_host("b")
    Host.objects.filter(name="alpha").delete()
    placed = []
    for number in range(4):
        vm = make_vm(owner, team, f"m{number}", host=None)
        vm.disks.update(pool=None)
        host = choose(vm=vm)
        vm.refresh_from_db()
        assert vm.host == host
        assert vm.disks.all()[0].pool == host.pools.get()
        placed.append(host.name)
    assert sorted(placed) == ["a", "a", "b", "b"]


def test_the_host_that_has_the_image_is_preferred(
    make_host: Callable[..., Host], image: Image
) -> None:
    make_host("a")
    b = make_host("b")
    ImageCopy.objects.create(image=image, pool=b.pools.get(), state=ImageCopy.State.READY)
    assert choose(image=image) == b


@pytest.mark.parametrize(
    ("fields", "ask", "code"),
    [
        ({"mode": "maintenance"}, {}, "placement.maintenance"),
        ({"reach": "down"}, {}, "placement.unreachable"),
        ({"reach": "unknown"}, {}, "placement.unreachable"),
        ({}, {"network": "lab"}, "placement.no_network"),
        ({"memory_mib": 1500}, {}, "placement.no_memory"),
        ({}, {"vcpus": 8 * 16 + 1}, "placement.no_vcpus"),
        ({"cpus": 2, "vcpu_ratio": 0.5}, {"vcpus": 2}, "placement.no_vcpus"),
        ({"free_gib": 3}, {}, "placement.no_disk"),
        ({"free_gib": 0}, {"disk_bytes": 0}, "placement.no_disk"),
    ],
)
def test_a_host_that_cannot_take_it_says_why(
    make_host: Callable[..., Host], fields: dict[str, Any], ask: dict[str, Any], code: str
) -> None:
    make_host("a", **fields)
    error = refused(**ask)
    assert error.code == code
    assert error.params["reasons"][0]["host"] == "a"
    assert "%(" not in said(error)
    assert "?" not in said(error)


def test_an_image_of_another_architecture(make_host: Callable[..., Host], image: Image) -> None:
    make_host("a")
    image.arch = "aarch64"
    assert refused(image=image).code == "placement.arch"


def test_different_reasons_are_all_told(make_host: Callable[..., Host]) -> None:
    make_host("a", mode="maintenance")
    make_host("b", memory_mib=1536)
    error = refused()
    assert error.code == "placement.none"
    assert "a: in maintenance" in said(error)
    assert "b: 512 MiB memory free of 1024 needed" in said(error)


def test_without_any_host(db: None) -> None:
    assert refused().code == "placement.no_hosts"


def test_memory_of_running_machines_is_taken_and_of_stopped_ones_is_not(
    make_host: Callable[..., Host], make_vm: Callable[..., VM], owner: User, team: Team
) -> None:
    make_vm(owner, team, memory_mib=1024, host=None)  # makes alpha and its pool
    Host.objects.filter(name="alpha").update(reach="down")
    a = make_host("a", memory_mib=4096)  # 1024 of it are kept for the host
    make_vm(owner, team, host=a, memory_mib=2048, observed="running", desired="running")
    assert choose(memory_mib=1024) == a
    assert "only" not in said(refused(memory_mib=1025))
    VM.objects.filter(host=a).update(observed="shutoff", desired="stopped")
    assert choose(memory_mib=3072) == a


def test_a_pool_full_of_promises(
    make_host: Callable[..., Host], make_vm: Callable[..., VM], owner: User, team: Team
) -> None:
    a = make_host("a", free_gib=10, disk_ratio=1.0)
    vm = make_vm(owner, team, host=a)
    Host.objects.filter(name="alpha").update(reach="down")
    vm.disks.update(pool=a.pools.get(), size_gib=6)
    assert choose(disk_bytes=4 * GIB) == a
    with pytest.raises(Conflict):
        choose(disk_bytes=5 * GIB)
    vm.disks.update(allocation_bytes=6 * GIB)  # written: no promise any more
    assert choose(disk_bytes=10 * GIB) == a
