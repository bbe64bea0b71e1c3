"""A machine that nobody uses: its people are told, then it is stopped. Off at first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import notifications
from accounts.errors import Forbidden, Invalid, NotFound
from accounts.models import Notification, User
from hosts.virt.errors import NoSpace, UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainFacts, DomainState
from hosts.watch import DomainSample
from hosts.watch.listeners import Activity
from hosts.watch.sampling import ACTIVITY_WINDOW_S, Sampler
from jobs.models import Job
from tests.vms.conftest import run_to_end
from vms import idle, lifecycle
from vms.models import VM, ConsoleSession
from vms.watching import MachineListener

DAY = timedelta(days=1)


@pytest.fixture
def unused(made: Callable[..., VM], admin: User) -> VM:
    """It runs, was last used 8 days ago, and the rule is 7 days and 2 more."""
    idle.set_rule(actor=admin, idle_days=7, idle_stop_days=2)
    vm = made()
    age(vm, last_active_at=8, started_at=20)
    return vm


def age(vm: VM, **days: float) -> None:
    moments = {name: timezone.now() - n * DAY for name, n in days.items()}
    VM.objects.filter(pk=vm.pk).update(sampled_at=timezone.now(), **moments)
    vm.refresh_from_db()


def suspend(vm: VM, owner: User) -> None:
    run_to_end(lifecycle.request(vm, "suspend", actor=owner))
    vm.refresh_from_db()


def told(user: User) -> list[str]:
    rows = Notification.objects.filter(user=user, code__startswith="lease.idle").order_by("id")
    return list(rows.values_list("code", flat=True))


def test_off_until_an_admin_sets_it(made: Any, owner: User) -> None:
    age(made(), last_active_at=99, started_at=99)
    idle.rounds()
    assert told(owner) == []


def test_told_then_stopped(unused: VM, owner: User, fake: FakeHypervisor) -> None:
    for _ in range(2):
        idle.rounds()
    assert told(owner) == ["lease.idle"]
    assert not Job.objects.filter(kind=idle.STOP).exists()
    age(unused, last_active_at=10, idle_told_at=2.1)
    for _ in range(2):
        idle.rounds()
    run_to_end(Job.objects.get(kind=idle.STOP))
    assert fake.domain(unused.uuid).state is DomainState.SHUTOFF
    assert told(owner) == ["lease.idle", "lease.idle_stopped"]
    unused.refresh_from_db()
    assert unused.desired == VM.Desired.STOPPED


@pytest.mark.parametrize("use", ["cpu", "console", "start", "keep"])
def test_any_use_begins_the_days_anew(unused: VM, owner: User, use: str) -> None:
    idle.rounds()
    age(unused, last_active_at=10, idle_told_at=2.1)
    if use == "cpu":
        age(unused, last_active_at=1)
    elif use == "start":
        age(unused, started_at=1)
    elif use == "keep":
        idle.keep(unused, actor=owner)
    else:
        ConsoleSession.objects.create(
            user=owner, vm=unused, kind="vnc", mode="view", carrier="asgi"
        )
    idle.rounds()
    assert not Job.objects.filter(kind=idle.STOP).exists()
    unused.refresh_from_db()
    assert unused.idle_told_at is None


def test_kept_while_it_waits_for_its_stop_it_runs_on(
    unused: VM, owner: User, fake: FakeHypervisor
) -> None:
    age(unused, last_active_at=10, idle_told_at=2.1)
    idle.rounds()
    idle.keep(unused, actor=owner)
    run_to_end(Job.objects.get(kind=idle.STOP))
    assert fake.domain(unused.uuid).state is DomainState.RUNNING


def test_a_suspended_one_is_saved_with_its_memory(
    unused: VM, owner: User, fake: FakeHypervisor
) -> None:
    suspend(unused, owner)
    idle.rounds()
    age(unused, last_active_at=10, idle_told_at=2.1)
    idle.rounds()
    assert run_to_end(Job.objects.get(kind=idle.STOP)).state == Job.State.SUCCEEDED
    assert (fake.calls["force_off"], fake.calls["shutdown"]) == (0, 0)
    unused.refresh_from_db()
    assert (unused.observed, unused.saved) == (VM.Observed.SHUTOFF, True)
    assert told(owner) == ["lease.idle", "lease.idle_stopped"]
    words = [notifications.text(row) for row in Notification.objects.order_by("id")]
    assert all("memory is saved" in text for text in words)


def test_a_suspended_one_that_cannot_be_saved_stays_and_is_told_of_once(
    unused: VM, owner: User, fake: FakeHypervisor
) -> None:
    suspend(unused, owner)
    fake.fail_next("save", NoSpace("full"), times=9)
    age(unused, last_active_at=10, idle_told_at=2.1)
    stops = Job.objects.filter(kind=idle.STOP)
    for day in range(4):
        for _minute in range(2):
            idle.rounds()
            for job in Job.objects.active():
                assert run_to_end(job).state == Job.State.FAILED
        assert stops.count() == day + 1
        stops.update(finished_at=timezone.now() - timedelta(hours=25))
    assert fake.domain(unused.uuid).state is DomainState.PAUSED
    assert told(owner) == ["lease.idle_stopped", "lease.idle_not_saved"]
    unused.refresh_from_db()
    assert unused.fault_code == NoSpace.code


def test_what_cannot_be_stopped_is_left_for_a_while_and_told_of_once(
    unused: VM, owner: User, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vms.rule_stops.PATIENCE", timedelta(0))
    age(unused, last_active_at=10, idle_told_at=2.1)
    fake.ignores_power_button.add(unused.uuid)
    fake.fail_next("force_off", UnknownVirtError("no"), times=9)
    for _ in range(3):
        idle.rounds()
        for job in Job.objects.active():
            assert run_to_end(job).state == Job.State.FAILED
    stops = Job.objects.filter(kind=idle.STOP)
    assert stops.count() == 1
    stops.update(finished_at=timezone.now() - timedelta(hours=1))
    idle.rounds()
    assert stops.count() == 2
    assert told(owner) == ["lease.idle_stopped"]


def test_nothing_is_said_of_what_nobody_watches(unused: VM, owner: User) -> None:
    VM.objects.filter(pk=unused.pk).update(sampled_at=timezone.now() - timedelta(hours=1))
    idle.rounds()
    assert told(owner) == []


def test_who_may_keep_it(unused: VM, teammate: User, viewer: User, outsider: User) -> None:
    idle.keep(unused, actor=teammate)  # who may start it may keep it
    with pytest.raises(Forbidden):
        idle.keep(unused, actor=viewer)
    with pytest.raises(NotFound):
        idle.keep(unused, actor=outsider)


@pytest.mark.parametrize("days", [(-1, 2), (366, 2), (7, 0), (7, 91)])
def test_rules_that_make_no_sense_are_refused(admin: User, days: tuple[int, int]) -> None:
    with pytest.raises(Invalid):
        idle.set_rule(actor=admin, idle_days=days[0], idle_stop_days=days[1])


# --- what the watcher sees ------------------------------------------------------------------------
def sample(vm: VM, cpu: float, sent: float) -> DomainSample:
    activity = Activity(cpu_percent=cpu, sent_bytes_s=sent)
    return DomainSample(uuid=vm.uuid, cpu_percent=cpu, memory_used_mib=1, activity=activity)


@pytest.mark.parametrize(("cpu", "sent", "used"), [(1, 40, False), (9, 0, True), (0, 9000, True)])
def test_cpu_or_network_is_use(unused: VM, cpu: float, sent: float, used: bool) -> None:
    assert unused.host is not None
    before = unused.last_active_at
    MachineListener().on_samples(unused.host, [sample(unused, cpu, sent)])
    unused.refresh_from_db()
    assert (unused.last_active_at != before) is used


def test_a_time_that_nobody_watched_counts_as_use(unused: VM) -> None:
    assert unused.host is not None
    VM.objects.filter(pk=unused.pk).update(sampled_at=timezone.now() - timedelta(hours=1))
    quiet = DomainSample(uuid=unused.uuid, cpu_percent=0, memory_used_mib=1)
    MachineListener().on_samples(unused.host, [quiet])
    unused.refresh_from_db()
    assert unused.last_active_at is not None
    assert timezone.now() - unused.last_active_at < timedelta(minutes=1)


def test_a_window_is_averaged(unused: VM, fake: FakeHypervisor) -> None:
    sampler = Sampler()

    def at(moment: float, cpu_s: float, sent: int) -> Activity | None:
        facts = DomainFacts(
            uuid=unused.uuid,
            name="x",
            state=DomainState.RUNNING,
            reason="",
            persistent=True,
            vcpus=2,
            memory_mib=1,
            cpu_time_ns=int(cpu_s * 1e9),
            sent_bytes=sent,
        )
        return sampler.samples([facts], at=moment)[0].activity

    assert at(0, 0, 0) is None
    assert at(5, 10, 10_000) is None  # a moment's work
    end = at(ACTIVITY_WINDOW_S, 12, 60_000)
    assert end == Activity(cpu_percent=1.0, sent_bytes_s=100.0)
    assert at(2 * ACTIVITY_WINDOW_S, 1, 5) is None  # started anew in between


# --- API and pages --------------------------------------------------------------------------------
def test_page_and_api(unused: VM, owner: User, admin: User, api: Any, browser: Any) -> None:
    idle.rounds()
    page = f"/machines/{unused.uuid}/"
    assert "Nobody seems to use it" in browser(owner).get(page).content.decode()
    assert api(owner).get(f"/vms/{unused.uuid}").json()["idle_told_at"]
    assert api(owner).post(f"/vms/{unused.uuid}/keep").json()["idle_told_at"] is None
    assert browser(owner).post(f"{page}time/keep/").status_code == 302
    assert "Nobody seems to use it" not in browser(owner).get(page).content.decode()
    rule = {"idle_days": 0, "idle_stop_days": 3}
    assert (
        api(admin).put("/leases/idle", rule).json() == rule == api(admin).get("/leases/idle").json()
    )
    assert api(owner).put("/leases/idle", rule).status_code == 403
    assert browser(admin).post("/admin/leases/idle/", rule | {"idle_days": 5}).status_code == 302
    assert api(admin).get("/leases/idle").json()["idle_days"] == 5
    assert browser(admin).post("/admin/leases/idle/", {"idle_days": "x"}).status_code == 422
