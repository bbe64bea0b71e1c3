"""A machine's screen: shown from the cache, taken by a worker, never while a page waits."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from PIL import Image as Picture

from accounts.models import User
from hosts import connections
from hosts.models import Host
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainSpec
from vms import screenshots
from vms.models import VM


@pytest.fixture
def fake(host: Host, vm: VM, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("alpha")
    hypervisor.define(
        DomainSpec(uuid=vm.uuid, name=vm.domain_name, vcpus=1, memory_mib=64, disks=())
    )
    hypervisor.start(vm.uuid)
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    sent: list[Any] = []
    monkeypatch.setattr(screenshots, "_send", sent.append)
    return sent


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Picture.new("RGB", (width, height), "navy").save(out, "PNG")
    return out.getvalue()


def test_looking_asks_for_one_and_shows_it_the_next_time(
    vm: VM, fake: FakeHypervisor, asked: list[Any]
) -> None:
    assert screenshots.latest(vm) is None
    assert asked == [vm.uuid]
    assert fake.calls["screenshot"] == 0  # nobody waited for the host
    assert screenshots.take(vm.uuid)
    shot = screenshots.latest(vm)
    assert shot is not None
    with Picture.open(io.BytesIO(shot.content)) as picture:
        assert picture.format == "WEBP"
    assert asked == [vm.uuid]  # not more often than every few seconds


def test_the_picture_of_an_earlier_run_is_not_shown(
    vm: VM, fake: FakeHypervisor, asked: list[Any]
) -> None:
    screenshots.take(vm.uuid)
    vm.started_at = vm.created_at
    vm.save()
    assert screenshots.latest(vm) is None


def test_a_machine_that_is_off_has_none(vm: VM, fake: FakeHypervisor, asked: list[Any]) -> None:
    screenshots.take(vm.uuid)
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    vm.refresh_from_db()
    assert screenshots.latest(vm) is None
    assert not asked
    assert not screenshots.take(vm.uuid)


def test_a_host_that_is_away_or_sends_rubbish(
    vm: VM, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "screenshot", lambda _uuid: b"not a picture")
    assert not screenshots.take(vm.uuid)
    fake.unplug()
    monkeypatch.undo()
    assert not screenshots.take(vm.uuid)


def test_a_large_screen_is_made_small_and_a_huge_one_refused() -> None:
    with Picture.open(io.BytesIO(screenshots.compact(png(3840, 2160)))) as picture:
        assert picture.size == (1280, 720)
    with pytest.raises(ValueError, match="5000 x 5000"):
        screenshots.compact(png(5000, 5000))


def test_the_api_gives_it_to_those_who_may_look(
    vm: VM, fake: FakeHypervisor, asked: list[Any], api: Any, owner: User, viewer: User,
    outsider: User,
) -> None:  # fmt: skip
    screenshots.take(vm.uuid)
    for person in (owner, viewer):
        answer = api(person).get(f"/vms/{vm.uuid}/screenshot")
        assert answer.status_code == 200
        assert answer["Content-Type"] == "image/png"
    assert api(outsider).get(f"/vms/{vm.uuid}/screenshot").status_code == 404


def test_a_page_gets_a_small_one_and_then_hears_that_it_is_the_same(
    vm: VM,
    fake: FakeHypervisor,
    asked: list[Any],
    owner: User,
    browser: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fake, "screenshot", lambda _uuid: png(1280, 800))
    screenshots.take(vm.uuid)
    address = f"/machines/{vm.uuid}/screen/"
    client = browser(owner)
    whole, small = client.get(address), client.get(f"{address}?size=small")
    assert len(small.content) < len(whole.content)
    with Picture.open(io.BytesIO(small.content)) as picture:
        assert picture.width <= 320
    assert small["Cache-Control"] == "private, no-cache"
    again = client.get(f"{address}?size=small", headers={"If-None-Match": small["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(address, headers={"If-None-Match": small["ETag"]}).status_code == 200
