"""What a machine's network and the machine itself tell: addresses, first boot, load."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from hosts.models import Host
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import Lease
from tests.watch.conftest import QUICK, eventually, sees, watched
from vms import firstboot
from vms.firstboot import CHANNEL, LINE_MAX_BYTES, Reports
from vms.models import VM


def addresses(vm: VM) -> list[str]:
    found: list[str] = vm.nics.all()[0].addresses
    return found


def test_a_lease_becomes_the_address(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    with watched(host, QUICK):
        sees(machine, "running")
        fake.guest_boots(machine.uuid, address="192.168.122.14", report=False)
        eventually(lambda: addresses(machine) == ["192.168.122.14"], "the address")
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
        # Another machine may have it tomorrow.
        assert addresses(machine) == []


def test_somebody_elses_lease_is_not_its_address(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    mac = machine.nics.all()[0].mac
    fake._leases.append(Lease(network="other", mac=mac, address="10.0.0.1"))
    with watched(host, QUICK):
        sees(machine, "running")
        calls = fake.calls["leases"]
        eventually(lambda: fake.calls["leases"] > calls + 2, "leases to be read")
    assert addresses(machine) == []


def test_the_guest_says_that_its_first_boot_is_done(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    VM.objects.filter(pk=machine.pk).update(first_boot="pending")
    with watched(host, QUICK):
        sees(machine, "running")
        fake.guest_reports(machine.uuid)
        eventually(lambda: VM.objects.get(pk=machine.pk).first_boot == "done", "the report")
        eventually(lambda: not fake._sources[0].watched, "nobody to listen any more")
    assert machine.events.filter(kind="first_boot.done").exists()


def test_the_guest_says_that_its_first_boot_failed(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    VM.objects.filter(pk=machine.pk).update(first_boot="pending")
    with watched(host, QUICK):
        sees(machine, "running")
        fake.guest_reports(machine.uuid, "error", "\x1b[31mno such module\x1b[0m: foo\u202e")
        eventually(lambda: VM.objects.get(pk=machine.pk).first_boot == "failed", "the report")
    excerpt = VM.objects.get(pk=machine.pk).first_boot_excerpt
    assert excerpt == "[31mno such module[0m: foo"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b'"kvmweb"',
        b'{"kvmweb": 2, "status": "done"}',
        b'{"kvmweb": 1}',
        b'{"kvmweb": 1, "status": "ready"}',
        b'{"kvmweb": 1, "status": "done", "detail": ["x"]}',
        b'{"kvmweb": 1, "status": "done", "detail": "' + b"x" * LINE_MAX_BYTES + b'"}',
        b"[" * 5000,
    ],
)
def test_nonsense_from_a_guest_is_no_report(line: bytes) -> None:
    assert firstboot.parse(line) is None


def test_a_report_may_come_in_pieces_after_nonsense() -> None:
    reports, guest = Reports(), uuid4()
    line = json.dumps({"kvmweb": 1, "status": "done", "detail": ""}).encode() + b"\n"
    assert reports.feed(guest, b"garbage without an end " * 2000) is None
    assert reports.feed(guest, b"its end\n" + line[:7]) is None
    assert reports.feed(guest, line[7:]) == firstboot.Report(failed=False, detail="")


def test_a_guest_that_floods_is_not_listened_to() -> None:
    reports, guest = Reports(), uuid4()
    while not reports.is_spent(guest):
        assert reports.feed(guest, b"A" * 65536) is None
    assert len(reports._heard[guest].line) <= LINE_MAX_BYTES


def test_another_guests_channel_says_nothing_of_this_machine(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    VM.objects.filter(pk=machine.pk).update(first_boot="pending")
    with watched(host, QUICK):
        sees(machine, "running")
        eventually(lambda: bool(fake._sources[0].watched), "the channel to be listened to")
        assert fake._sources[0].watched == {(machine.uuid, CHANNEL)}


def test_load_is_sampled_while_it_runs(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    def sampled() -> bool:
        machine.refresh_from_db()
        return machine.sampled_at is not None and machine.cpu_percent is not None

    with watched(host, QUICK):
        sees(machine, "running")
        eventually(sampled, "a sample")
        assert machine.cpu_percent is not None
        assert 0 <= machine.cpu_percent <= 100
        host.refresh_from_db()
        assert host.sampled_at is not None
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
        assert machine.cpu_percent is None
