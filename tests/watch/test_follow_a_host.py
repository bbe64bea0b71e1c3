"""What happens to a domain, by whomever, is what its machine's row says a moment later."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import OperationalError

from accounts.models import Allocation, Team, User
from hosts.models import Host
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainEvent
from jobs.models import Job
from tests.watch.conftest import EVENTS_ONLY, QUICK, define, eventually, sees, watched
from vms import state, timeline
from vms.models import VM


def lines(vm: VM) -> list[str]:
    return list(vm.events.order_by("id").values_list("kind", flat=True))


def test_what_runs_already_is_seen_at_the_start(machine: VM, host: Host) -> None:
    with watched(host):
        sees(machine, "running")
    host.refresh_from_db()
    assert host.reach == Host.Reach.UP
    assert machine.started_at is not None


def test_virsh_outside_is_followed(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    with watched(host):
        sees(machine, "running")
        fake.suspend(machine.uuid)
        sees(machine, "paused")
        fake.resume(machine.uuid)
        sees(machine, "running")
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
        assert machine.desired == VM.Desired.STOPPED
        assert machine.started_at is None
        fake.start(machine.uuid)
        sees(machine, "running")
    assert lines(machine) == [
        "state.running",
        "state.paused",
        "state.running",
        "state.shutoff",
        "state.running",
    ]
    last = machine.events.first()
    assert last is not None
    assert last.params["outside"] is True
    assert last.actor is None


def test_changes_from_outside_are_told_once(
    machine: VM, host: Host, fake: FakeHypervisor, owner: User
) -> None:
    def change(kind: str, detail: str) -> None:
        name = machine.domain_name
        fake.emit(DomainEvent(kind=kind, uuid=machine.uuid, name=name, detail=detail))

    with watched(host):
        sees(machine, "running")
        job = Job.objects.create(
            kind="vm.nic_add", vm=machine, state="running", team=machine.team, target_name="x"
        )
        change("device", "added")  # that job's own
        change("metadata", "")  # nothing that anybody asks for
        fake.suspend(machine.uuid)
        sees(machine, "paused")
        Job.objects.filter(pk=job.pk).delete()
        for kind, detail, line in (
            ("device", "removed", "outside.device_removed"),
            ("lifecycle", "defined", "outside.defined"),
        ):
            for _ in range(5):
                change(kind, detail)
            eventually(lambda line=line: line in lines(machine), line)
    told = [kind for kind in lines(machine) if kind.startswith("outside.")]
    assert sorted(told) == ["outside.defined", "outside.device_removed"]
    settings = [entry.kind for entry in timeline.entries(machine, only="settings")]
    assert set(settings) == set(told)


def test_a_job_is_named_as_the_cause(
    machine: VM, host: Host, fake: FakeHypervisor, owner: User
) -> None:
    with watched(host):
        sees(machine, "running")
        Job.objects.create(
            kind="vm.force_off", vm=machine, actor=owner, state=Job.State.RUNNING, worker="w"
        )
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
    last = machine.events.first()
    assert last is not None
    assert last.params["outside"] is False
    assert last.actor == owner
    assert machine.desired == VM.Desired.RUNNING  # the job says what is wanted, not the watcher


def test_running_counts_against_the_quota_and_stopped_does_not(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    def running() -> dict[str, int]:
        rows = Allocation.objects.filter(vm=machine, resource__startswith="running")
        return dict(rows.values_list("resource", "amount"))

    with watched(host):
        sees(machine, "running")
        assert running() == {
            "running_machines": 1,
            "running_vcpus": 1,
            "running_memory_mib": 1024,
        }
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
        assert running() == {}


def test_a_guest_that_restarts_does_not_flicker(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host):
        sees(machine, "running")
        fake.guest_powers_off(machine.uuid)
        fake.start(machine.uuid)
        fake.suspend(machine.uuid)
        sees(machine, "paused")
    assert "state.shutoff" not in lines(machine)


def test_a_guest_that_stays_off_is_shown_so(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    with watched(host):
        sees(machine, "running")
        fake.guest_powers_off(machine.uuid)
        sees(machine, "shutoff")
    assert machine.observed_reason == "shutdown"


def test_a_reboot_is_one_line(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    with watched(host):
        sees(machine, "running")
        fake.reset(machine.uuid)
        fake.reset(machine.uuid)
        eventually(lambda: "state.rebooted" in lines(machine), "the reboot's line")
        fake.suspend(machine.uuid)
        sees(machine, "paused")
    assert lines(machine).count("state.rebooted") == 1


def test_a_crash_is_a_fault_until_it_runs_again(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host):
        sees(machine, "running")
        fake.guest_crashes(machine.uuid)
        sees(machine, "crashed")
        assert machine.fault_code == "vm.crashed"
        fake.start(machine.uuid)
        sees(machine, "running")
        assert machine.fault_code == ""


def test_a_removed_domain_is_missing_and_nothing_is_deleted(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host):
        sees(machine, "running")
        fake.vanish(machine.uuid)
        sees(machine, "missing")
        assert machine.fault_code == "vm.missing"
        assert machine.disks.count() == 1
        define_again(fake, machine)
        sees(machine, "running")
        assert machine.fault_code == ""
        assert machine.owner.username == "owner"


def define_again(fake: FakeHypervisor, vm: VM) -> None:
    from tests.watch.conftest import domain_of

    fake.define(domain_of(vm))
    fake.start(vm.uuid)


def test_a_machine_that_is_being_made_does_not_go_missing(
    fake: FakeHypervisor, host: Host, make_vm: Callable[..., VM], owner: User, team: Team
) -> None:
    vm = make_vm(owner, team, observed=VM.Observed.UNKNOWN)
    with watched(host, QUICK):
        eventually(lambda: fake.calls["list_domains"] > 6, "several lists")
    vm.refresh_from_db()
    assert vm.observed == VM.Observed.UNKNOWN
    assert vm.missing_count == 0


def test_a_domain_renamed_outside_keeps_its_row(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host):
        sees(machine, "running")
        import dataclasses

        from tests.watch.conftest import domain_of

        fake.define(dataclasses.replace(domain_of(machine), name="renamed"))
        eventually(
            lambda: VM.objects.get(pk=machine.pk).domain_name == "renamed", "the new domain name"
        )
    assert VM.objects.get(pk=machine.pk).name == "web-1"


def test_an_event_that_was_lost_is_found_by_the_list(
    machine: VM, host: Host, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(host, QUICK):
        sees(machine, "running")
        monkeypatch.setattr(fake, "emit", lambda *_args, **_kwargs: None)
        fake.suspend(machine.uuid)
        sees(machine, "paused")


def test_a_call_that_fails_is_made_again(machine: VM, host: Host, fake: FakeHypervisor) -> None:
    with watched(host):
        sees(machine, "running")
        fake.fail_next("domain", UnknownVirtError("hiccup"))
        fake.suspend(machine.uuid)
        sees(machine, "paused")


def test_a_database_that_was_away_catches_up(
    machine: VM, host: Host, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = state.observe, [3]

    def flaky(*args: object, **kwargs: object) -> bool:
        if failures[0]:
            failures[0] -= 1
            raise OperationalError("server closed the connection unexpectedly")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with watched(host, EVENTS_ONLY):
        sees(machine, "running")
        monkeypatch.setattr(state, "observe", flaky)
        fake.suspend(machine.uuid)
        sees(machine, "paused")
    assert failures == [0]


def test_one_bad_machine_does_not_hide_the_others(
    machine: VM,
    host: Host,
    fake: FakeHypervisor,
    make_vm: Callable[..., VM],
    owner: User,
    team: Team,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = make_vm(owner, team, "web-2", observed=VM.Observed.UNKNOWN)
    define(fake, other)
    real = state.observe

    def picky(vm: VM, *args: object, **kwargs: object) -> bool:
        if vm.pk == machine.pk:
            raise ValueError("this one cannot be handled")
        return real(vm, *args, **kwargs)  # type: ignore[arg-type]

    with watched(host):
        sees(machine, "running")
        sees(other, "running")
        monkeypatch.setattr(state, "observe", picky)
        fake.suspend(machine.uuid)
        fake.suspend(other.uuid)
        sees(other, "paused")


@pytest.mark.django_db
def test_what_is_no_news_is_not_written(
    vm: VM, fake: FakeHypervisor, django_assert_num_queries: Callable[..., object]
) -> None:
    define(fake, vm)
    facts = fake.domain(vm.uuid)
    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        assert not state.observe(vm, facts)
    assert not vm.events.exists()
