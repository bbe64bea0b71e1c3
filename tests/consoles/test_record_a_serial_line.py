"""A serial line is recorded: as asciicast, with times, bounded, until somebody stops it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from accounts import tokens
from accounts.models import User
from hosts.virt.fake import FakeHypervisor
from kvmweb.asgi import application
from tests.consoles.serial_site import SerialSite
from tests.consoles.test_both_carriers_keep_the_contract import wait_for
from tests.consoles.test_serial_line import fake, secret  # noqa: F401 - a fixture
from vms.consoles import recorder
from vms.consoles.serial import hub
from vms.models import VM, ConsoleRecording

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(
    fake: FakeHypervisor,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    tmp_path: Path,
) -> Iterator[SerialSite]:
    settings.RECORDINGS_DIR = tmp_path / "recordings"
    monkeypatch.setattr(hub, "LINGER_S", 0.1)
    monkeypatch.setattr(recorder, "FLUSH_EVERY_S", 0.1)
    with SerialSite(application) as made:
        yield made
        wait_for(lambda: not fake.lines, "a line was left open")


@pytest.fixture
def client(site: SerialSite, owner: User) -> Iterator[httpx.Client]:
    _, token = tokens.issue(owner, "test", ("read", "write"), None)
    base = f"http://127.0.0.1:{site.port}/api/v1"
    with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}) as made:
        yield made


def start(client: httpx.Client, vm: VM) -> str:
    answer = client.post(f"/vms/{vm.uuid}/recordings", json={"kind": "serial"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(pk: str) -> ConsoleRecording:
    wait_for(
        lambda: ConsoleRecording.objects.get(pk=pk).ended_at is not None, "the recording's end"
    )
    return ConsoleRecording.objects.get(pk=pk)


def test_record_and_read_it(
    site: SerialSite,
    fake: FakeHypervisor,  # noqa: F811
    client: httpx.Client,
    owner: User,
    vm: VM,
) -> None:
    fake.guest_says(vm.uuid, b"a secret of before\r\n")
    pk = start(client, vm)
    wait_for(lambda: vm.uuid in fake.lines, "the line is open without anybody who looks")
    with site.open(secret(owner, vm)) as terminal:
        terminal.until_told(type="live")
        terminal.say(type="size", cols=132, rows=43)
        terminal.until_told(type="size", cols=132, rows=43)
        fake.guest_says(vm.uuid, "grüß".encode()[:4])
        terminal.until_shown(b"gr")
        fake.guest_says(vm.uuid, "grüß".encode()[4:] + b"\x1b[31m \xff red")
        terminal.until_shown(b"red")
    assert client.post(f"/recordings/{pk}/stop").status_code == 200
    row = ended(pk)
    data = client.get(f"/recordings/{pk}/data")
    lines = [json.loads(line) for line in data.text.splitlines()]
    assert row.size_bytes == len(data.content)
    assert row.end_reason == "stopped_by"
    assert (lines[0]["version"], lines[0]["width"], lines[0]["title"]) == (2, 80, vm.name)
    times = [line[0] for line in lines[1:]]
    assert times == sorted(times)
    assert "".join(line[2] for line in lines[1:] if line[1] == "o") == "grüß\x1b[31m \ufffd red"
    assert [line[2] for line in lines[1:] if line[1] == "r"] == ["132x43"]


def test_a_flood_fills_it_and_no_more(
    fake: FakeHypervisor,  # noqa: F811
    client: httpx.Client,
    settings: Any,
    vm: VM,
) -> None:
    settings.RECORDING_MAX_MIB = 1
    pk = start(client, vm)
    wait_for(lambda: vm.uuid in fake.lines, "the line is open")

    def floods() -> bool:
        if vm.uuid in fake.lines:
            fake.guest_says(vm.uuid, b"flood " * 10_000)
        return ConsoleRecording.objects.get(pk=pk).ended_at is not None

    wait_for(floods, "the recording is full")
    row = ended(pk)
    assert row.end_reason == "full"
    assert 0 < row.size_bytes <= 1 << 20


def test_it_ends_with_the_machine(
    fake: FakeHypervisor,  # noqa: F811
    client: httpx.Client,
    vm: VM,
) -> None:
    pk = start(client, vm)
    wait_for(lambda: vm.uuid in fake.lines, "the line is open")
    fake.guest_powers_off(vm.uuid)
    assert ended(pk).end_reason == "stopped"
